"""Submissions to the leaderboard, read back by mteb's own loader."""

import json

import mteb
import pytest
from mteb.mocks import MOCK_TASK_TEST_GRID

from csr_hf import CSREncoder, load_backbone
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.leaderboard import published_meta, write_submission
from csr_hf.evaluation.mteb import MTEBEncoder
from csr_hf.publishing.sentence_transformers import write_full
from tests.helpers.mteb_tasks import QUIET
from tests.publishing.conftest import make_head

MOCK = {task.metadata.name: type(task) for task in MOCK_TASK_TEST_GRID}


@pytest.fixture(scope="module")
def published(hub, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "full"
    folder.mkdir()
    head = make_head(base_model_name_or_path="sentence-transformers/all-MiniLM-L6-v2")
    write_full(backbone, head, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# A head\n")
    return hub.add("user/board", folder)


def test_submission_is_what_the_stock_loader_reproduces(published, backbone, tmp_path):
    encoder = CSREncoder.from_pretrained("user/board", device="cpu")
    cached = CachedBackbone(encoder.backbone, tmp_path / "embeddings")
    task = MOCK["MockSTSTask"]()
    files = write_submission(
        tmp_path / "submission", "user/board", cached, encoder.head, [task], [16, 4], trained_on={"NQ"}
    )
    folder = tmp_path / "submission" / "results" / "user__board" / published
    places = {"MockSTSTask": folder, "max_active_dims_4": folder / "experiments" / "max_active_dims_4"}
    assert {folder / "MockSTSTask.json", places["max_active_dims_4"] / "MockSTSTask.json"} <= set(files)
    for k, place in ((16, folder), (4, places["max_active_dims_4"])):
        meta = published_meta("user/board", encoder.backbone, encoder.head, k)
        stock = mteb.evaluate(meta.load_model(), task, **QUIET)
        written = json.loads((place / "MockSTSTask.json").read_text())["scores"]["test"][0]["main_score"]
        assert written == pytest.approx(stock.task_results[0].get_score(), abs=1e-3)
    code = (tmp_path / "submission" / "board.py").read_text()
    compile(code, "board.py", "exec")
    for part in ("SparseEncoderWrapper", "user/board", published, "apache-2.0", "eng-Latn", "NQ", "all-MiniLM-L6-v2"):
        assert part in code


def test_mteb_finds_a_published_model_by_its_name(published, tmp_path):
    """What `mteb run -m user/board` loads: mteb's own wrapper, no trust asked for."""
    from mteb.models.sentence_transformer_wrapper import SparseEncoderWrapper

    model = mteb.get_model("user/board", device="cpu")
    assert type(model) is SparseEncoderWrapper
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == ("user/board", published)
    found = mteb.evaluate(model, MOCK["MockSTSTask"](), **QUIET)
    encoder = CSREncoder.from_pretrained("user/board", device="cpu")
    own = MTEBEncoder.from_head(encoder.backbone, encoder.head, tmp_path)
    expected = mteb.evaluate(own, MOCK["MockSTSTask"](), **QUIET)
    assert found.task_results[0].get_score() == pytest.approx(expected.task_results[0].get_score(), abs=1e-3)


def test_head_layout_cannot_be_submitted(hub, published, tmp_path):
    make_head().save_pretrained(tmp_path / "head")
    hub.add("user/alone", tmp_path / "head")
    encoder = CSREncoder.from_pretrained("user/board", device="cpu")
    with pytest.raises(ValueError, match=r"user/alone holds the head alone\. Push it with --layout full"):
        published_meta("user/alone", encoder.backbone, encoder.head, 16)
    with pytest.raises(ValueError, match="user/nowhere is not on the Hub"):
        published_meta("user/nowhere", encoder.backbone, encoder.head, 16)


def test_codes_of_a_backbone_that_compares_by_distances_cannot_be_submitted(tiny_folder, head):
    backbone = load_backbone(str(tiny_folder("dense")), device="cpu", similarity="euclidean")
    with pytest.raises(ValueError, match=r"compares by euclidean distance.*Train a head with `backbone\.similarity`"):
        published_meta("user/far", backbone, head, 5)
