"""recipes/paper on text: a fine-tuning that goes on, and tasks of a model without a head, on tiny models."""

import json

import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from tests.helpers.scripts import ROOT, load_script

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


def test_texts_are_cut_in_the_training_alone(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(text_matryoshka, "TOKENS", 3)
    model = SentenceTransformer(str(tiny_folder("bert")), device="cpu")
    usual = model.max_seq_length
    assert usual > 3
    text_matryoshka.fine_tune(model, PAIRS, tmp_path, [1e-9], per_device_train_batch_size=4, warmup_steps=1)
    assert model.max_seq_length == 3
    assert SentenceTransformer(str(tmp_path / "minutes_1e-09"), device="cpu").max_seq_length == usual


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


@pytest.fixture
def curve(monkeypatch):
    """The script of the curve, and the regions that it shares with the page."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    from regions import paper_text

    return load_script("text_curve"), paper_text


def test_the_curve_begins_at_the_frozen_model_and_goes_on_by_minutes(curve):
    script, regions = curve
    frozen = regions.list_frozen()
    tasks = frozen[0].tasks
    fine_tuned = [each for each in regions.list_trained() if each.method == "truncation"]
    whole = [each for each in fine_tuned if set(tasks) <= set(each.tasks)]
    assert 0 < len(whole) < len(fine_tuned)
    lines = script.list_lines(frozen, fine_tuned, 64)
    assert list(lines) == [*dict.fromkeys(each.model for each in whole), "frozen MiniLM, CSR, packed"]
    for model in {each.model for each in whole}:
        expected = [(each.minutes, each.share(tasks, 64)) for each in whole if each.model == model]
        assert lines[model] == [(0.0, frozen[0].share(tasks, 64)), *expected]
        minutes = [point[0] for point in lines[model]]
        assert minutes == sorted(minutes)


def test_a_share_is_the_mean_over_tasks_and_seeds_of_the_largest_setting_within_the_budget(curve):
    _, regions = curve
    packed = next(each for each in regions.list_frozen() if each.method == regions.PACKED)
    assert len(packed.results) == 3
    expected = []
    for results in packed.results:
        for task in packed.tasks:
            dense = packed.results[0].select(task=task, method="dense")[0]
            rows = [row for row in results.select(task=task, method=regions.PACKED) if row.metric == dense.metric]
            largest = max(row.bytes_per_vector for row in rows if row.bytes_per_vector <= 50)
            expected += [row.score / dense.score for row in rows if row.bytes_per_vector == largest]
    assert packed.share(packed.tasks, 50) == pytest.approx(sum(expected) / len(expected))
    assert packed.share(packed.tasks, 8) is None
