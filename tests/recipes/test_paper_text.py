"""recipes/paper on text: a fine-tuning that goes on, and tasks of a model without a head, on tiny models."""

import json

import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from tests.helpers.scripts import load_script

text_matryoshka = load_script("paper/text_matryoshka")
text_tasks = load_script("paper/text_tasks")
PAIRS = Dataset.from_dict(
    {"anchor": [f"question {row}" for row in range(32)], "positive": [f"answer {row} of it" for row in range(32)]}
)
LATE = 1e6


def fine_tune(model, output, minutes):
    torch_model = SentenceTransformer(str(model), device="cpu")
    return text_matryoshka.fine_tune(
        torch_model, PAIRS, output, minutes, per_device_train_batch_size=4, warmup_steps=1
    )


def test_a_training_stops_at_its_minutes_and_goes_on_to_the_end_of_the_epoch(tmp_path, tiny_folder):
    model, output = tiny_folder("bert"), tmp_path / "out"
    # The first step is later than any of such minutes.
    (first,) = fine_tune(model, output, [1e-9])
    assert (first["folder"], first["step"]) == ("minutes_1e-09", 1)
    points = fine_tune(model, output, [1e-9, LATE])
    assert points[0] == first
    assert [(point["folder"], point["step"]) for point in points[1:]] == [("epoch", 8)]
    assert points[1]["minutes"] > first["minutes"] > 0
    record = json.loads((output / "minutes.json").read_text(encoding="utf-8"))
    assert record["points"] == points and record["machine"]
    texts = ["question 3", "answer 3 of it"]
    saved = [SentenceTransformer(str(folder), device="cpu").encode(texts) for folder in (model, output / "epoch")]
    assert abs(saved[0] - saved[1]).max() > 1e-4


def test_a_model_without_a_head_is_measured_whole_and_cut(tmp_path, tiny_folder):
    pytest.importorskip("mteb")
    from tests.helpers.mteb_tasks import TEXT_TASKS, by_name

    tasks = {name: by_name(TEXT_TASKS)[name] for name in ("MockSTSTask", "MockRetrievalTask")}
    model = str(tiny_folder("bert"))
    benchmark = text_tasks.measure(model, tasks, [8, 16], tmp_path / "out", tmp_path / "embeddings")
    assert not benchmark.failures
    dim = SentenceTransformer(model, device="cpu").get_embedding_dimension()
    for task in tasks:
        found = [(row.method, row.bytes_per_vector) for row in benchmark.results.rows if row.task == task]
        assert set(found) == {("dense", 4 * dim), ("truncation", 8), ("truncation", 16)}
    again = text_tasks.measure(model, tasks, [8, 16], tmp_path / "out", tmp_path / "embeddings")
    scores = [[row.score for row in each.results.rows] for each in (benchmark, again)]
    assert scores[0] == pytest.approx(scores[1])
