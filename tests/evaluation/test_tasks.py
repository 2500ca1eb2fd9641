"""Tasks of the real mteb by several methods: resumable, and one failure does not stop the rest."""

import json
import logging

import pytest

from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.csr_methods import CSRMethod
from csr_hf.evaluation.methods import all_methods
from csr_hf.evaluation.mteb import MTEBEncoder
from csr_hf.evaluation.results import Results
from csr_hf.evaluation.tasks import HeadMeta, evaluate_tasks, load_tasks
from csr_hf.evaluation.vector_method import DenseMethod
from tests.helpers.mteb_tasks import TEXT_TASKS, by_name, often, scores_of

META = HeadMeta("user/x", "1")


def test_backbone_runs_once_whatever_the_number_of_methods(backbone, minilm_head, tmp_path):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockRetrievalTask", "MockSTSTask")]
    first = CachedBackbone(backbone, tmp_path / "a")
    evaluate_tasks(by_name(tasks), [DenseMethod(384)], first, tmp_path / "x", META)
    second = CachedBackbone(backbone, tmp_path / "b")
    methods = all_methods(minilm_head, None, ks=[4, 8, 16], baselines=["truncate", "binary"])
    evaluate_tasks(by_name(tasks), methods, second, tmp_path / "y", META)
    assert second.embedded == first.embedded > 0
    third = CachedBackbone(backbone, tmp_path / "b")
    evaluate_tasks(by_name(tasks), methods, third, tmp_path / "z", META)
    assert third.embedded == 0


def test_a_part_of_a_task_has_a_name_and_a_score_of_its_own(cached, minilm_head, tmp_path):
    task = type(next(task for task in TEXT_TASKS if task.metadata.name == "MockMultilingualSTSTask"))
    first, second = task().hf_subsets[:2]
    whole = evaluate_tasks({"whole": task()}, [DenseMethod(384)], cached, tmp_path, META).results
    parts = {f"part:{name}": task().filter_languages(None, hf_subsets=[name]) for name in (first, second)}
    # The cache holds the whole task by now.
    found = evaluate_tasks(parts, [DenseMethod(384)], cached, tmp_path, META).results
    assert [row.task for row in found.rows] == ["whole", f"part:{first}", f"part:{second}"]
    scores = [row.score for row in found.rows]
    assert scores[0] == pytest.approx((scores[1] + scores[2]) / 2)
    assert whole.rows[0] == found.rows[0]
    assert found.details["datasets"] == {}


def test_rows_of_earlier_calls_stay_with_the_same_head_alone(cached, minilm_head, tmp_path):
    tasks = {
        task.metadata.name: task for task in TEXT_TASKS if task.metadata.name in ("MockSTSTask", "MockRetrievalTask")
    }
    for name, task in tasks.items():
        seen = HeadMeta("user/x", "1", {"MockSTSTask"})
        found = evaluate_tasks({name: task}, [DenseMethod(384)], cached, tmp_path, seen, {"head": "a"})
    assert {row.task for row in found.results.rows} == set(tasks)
    assert set(found.results.details["task_types"]) == set(tasks)
    assert "### MockSTSTask (the head was trained on its data)" in found.results.to_markdown()
    assert set(found.results.details["datasets"]) == {"MockRetrievalTask"}
    retrieval = {"MockRetrievalTask": tasks["MockRetrievalTask"]}
    for name, value in (("head", "b"), ("backbone", "b"), ("similarity", "dot")):
        with pytest.raises(ValueError, match=f"holds results of another {name}. Choose another output_dir"):
            evaluate_tasks(retrieval, [DenseMethod(384)], cached, tmp_path, META, {"head": "a", name: value})
    assert {row.task for row in Results.load(tmp_path).rows} == set(tasks)


class Interrupted(CSRMethod):
    """Stops like a person at the keyboard."""

    def index(self, documents):
        raise KeyboardInterrupt


class Defective(CSRMethod):
    def index(self, documents):
        raise RuntimeError("no such data")


@pytest.mark.parametrize("task", often([task for task in TEXT_TASKS if "Classification" in task.metadata.type]))
def test_columns_read_at_once_change_no_score(cached, minilm_head, tmp_path, task):
    method = CSRMethod(minilm_head, 4)
    expected = scores_of(MTEBEncoder(cached, method), type(task)())
    evaluate_tasks(by_name([type(task)()]), [method], cached, tmp_path, META)
    (path,) = tmp_path.rglob(f"{task.metadata.name}.json")
    found = json.loads(path.read_text())["scores"]
    main = [subset["main_score"] for subsets in found.values() for subset in subsets]
    assert main == pytest.approx([score for key, score in expected.items() if key[-1] == "main_score"])


def test_interrupted_evaluation_goes_on_where_it_stopped(cached, minilm_head, tmp_path):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockSTSTask", "MockRetrievalTask")]
    tasks.sort(key=lambda task: task.metadata.name, reverse=True)

    def measure(csr_method, name):
        return evaluate_tasks(by_name(tasks), [DenseMethod(384), csr_method], cached, tmp_path / name, META)

    whole = measure(CSRMethod(minilm_head, 4), "whole")
    with pytest.raises(KeyboardInterrupt):
        measure(Interrupted(minilm_head, 4), "run")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("Mock*.json")}
    assert len(done) == 3
    again = measure(CSRMethod(minilm_head, 4), "run")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for row, expected in zip(again.results.rows, whole.results.rows, strict=True):
        assert (row.task, row.method) == (expected.task, expected.method)
        assert row.score == pytest.approx(expected.score, abs=1e-9)


def test_task_that_fails_is_reported_and_the_others_go_on(cached, minilm_head, tmp_path, caplog):
    tasks = [task for task in TEXT_TASKS if task.metadata.name in ("MockRetrievalTask", "MockSTSTask")]
    caplog.set_level(logging.INFO, "csr_hf")
    found = evaluate_tasks(
        by_name(tasks),
        [DenseMethod(384), Defective(minilm_head, 4)],
        cached,
        tmp_path,
        META,
    )
    assert found.failures == {"MockRetrievalTask": "RuntimeError: no such data"}
    assert {row.task for row in found.results.rows} == {"MockSTSTask"}
    assert "MockRetrievalTask: failed, RuntimeError: no such data" in caplog.messages
    assert found.results.details["task_types"] == {"MockSTSTask": "STS"}


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(
        ValueError, match=r"task 'SciFac' is unknown to mteb: 'SciFac' not found\. Did you mean: 'SciFact"
    ):
        load_tasks(["STSBenchmark", "SciFac"])
    with pytest.raises(ValueError, match="xx"):
        load_tasks(["MTOPIntentClassification:xx"])
    (task,) = load_tasks(["MTOPIntentClassification:en:test"]).values()
    assert (task.hf_subsets, task.eval_splits) == (["en"], ["test"])
