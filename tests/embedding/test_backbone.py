import numpy as np
import pytest

from csr_hf import Backbone, load_backbone
from tests.helpers.backbones import KINDS, load_stock


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


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_embeds_as_its_own_library_does(name, tiny_folder, tmp_path):
    kind, folder = KINDS[name], tiny_folder(name)
    found = load_backbone(str(folder), device="cpu", trust_remote_code=kind.trust_remote_code, **kind.settings)
    assert (found.dim, found.modalities, found.similarity_fn_name) == (kind.dim, kind.modalities, kind.similarity)
    own, texts = load_stock(folder, kind), kind.sentences(5)
    # CLIP's embeddings are made unit vectors, which its own library leaves to the caller.
    options = {"normalize_embeddings": "image" in kind.modalities}
    for task, encode in (("query", own.encode_query), ("document", own.encode_document), (None, own.encode)):
        rows = found.embed(texts, task=task)
        assert (rows.shape, rows.dtype) == ((5, kind.dim), np.float32)
        np.testing.assert_allclose(rows, encode(texts, **options), atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    if not kind.trust_remote_code:
        own.save(str(tmp_path), create_model_card=False)
        assert load_backbone(str(tmp_path), device="cpu", **kind.settings).fingerprint == found.fingerprint


def test_towers_for_queries_and_documents(tiny_folder):
    router = load_backbone(str(tiny_folder("router")), device="cpu")
    asked, told = router.embed(["a cat"], task="query"), router.embed(["a cat"], task="document")
    assert np.abs(asked - told).max() > 0.1
    # A prompt alone chooses no tower.
    np.testing.assert_allclose(router.embed(["a cat"], "query"), router.embed(["a cat"]), atol=1e-6)
    assert (router.effective_task("query"), router.effective_task(None)) == ("query", None)
    bert = load_backbone(str(tiny_folder("bert")), device="cpu")
    assert bert.effective_task("query") is None


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "q: ", "passage": "p: ", "corpus": "c: "}, None, ("q: ", "p: ", None)),
        ({"corpus": "c: "}, None, (None, "c: ", None)),
        ({"document": "", "passage": "p: "}, None, (None, "", None)),
        ({"ask": "a: "}, "ask", ("a: ", "a: ", "a: ")),
    ],
)
def test_prompts_are_chosen_as_sentence_transformers_chooses_them(tiny_folder, prompts, default, expected):
    model = load_stock(tiny_folder("bert"), KINDS["bert"])
    model.prompts, model.default_prompt_name = prompts, default
    found = Backbone(model, "tiny")
    assert tuple(found.prompt(None, task) for task in ("query", "document", None)) == expected
    assert found.prompt("document") == found.prompt(None, "document")
    for task, encode in (("query", model.encode_query), ("document", model.encode_document), (None, model.encode)):
        np.testing.assert_allclose(found.embed(["a cat"], task=task), encode(["a cat"]), atol=1e-6)


def test_prompts_that_the_user_says(tiny_folder):
    prompts = {"query": "web_search_query", "document": "tell: ", "anchor": "sts_query", "text": ""}
    found = load_backbone(str(tiny_folder("instructed")), device="cpu", prompts=prompts)
    own = found.prompts
    assert found.prompt(None, "query") == own["web_search_query"]
    assert (found.prompt(None, "document"), found.prompt("positive")) == ("tell: ", "tell: ")
    assert (found.prompt("anchor", "query"), found.prompt("text", "document")) == (own["sts_query"], "")
    assert found.prompt("web_search_query", "document") == own["web_search_query"]
    expected = found.model.encode(["a cat"], prompt="so: ")
    np.testing.assert_allclose(found.embed(["a cat"], "anchor", prompt="so: ", task="query"), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"`prompt_name` \('ask'\) is unknown"):
        found.embed(["why"], "ask")
    with pytest.raises(ValueError, match=r"`task` \('passage'\) must be query or document"):
        found.embed(["why"], task="passage")


@pytest.mark.parametrize("kind", ["other_letters", "static", "clip"])
def test_width_is_measured_where_no_module_declares_it(tiny_folder, monkeypatch, kind):
    model = load_stock(tiny_folder(kind), KINDS[kind])
    monkeypatch.setattr(type(model), "get_embedding_dimension", lambda self: self.truncate_dim)
    assert Backbone(model, "tiny").dim == KINDS[kind].dim
    model.truncate_dim = 7
    assert Backbone(model, "tiny").dim == 7
    model.truncate_dim = 700
    assert Backbone(model, "tiny").dim == KINDS[kind].dim


def test_lengths_are_set_in_every_tower_that_cuts(tiny_folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    static, bert = (load_stock(tiny_folder(kind), KINDS[kind]) for kind in ("static", "dot"))
    router = Router.for_query_document(query_modules=list(static), document_modules=list(bert))
    model = SentenceTransformer(modules=[router], device="cpu")
    found = load_backbone_with(model, max_seq_length=4)
    long, short = found.embed(["a b c d e f", "a b"], task="document")
    np.testing.assert_allclose(long, short, atol=1e-6)
    assert found.model is model


def load_backbone_with(model, **settings):
    from csr_hf.embedding.arguments import BackboneSettings

    return Backbone(model, "tiny", settings=BackboneSettings(**settings))


def test_default_prompt_of_the_model_is_used_and_said(backbone, monkeypatch):
    monkeypatch.setitem(backbone.model.prompts, "ask", "ask: ")
    monkeypatch.setattr(backbone.model, "default_prompt_name", "ask")
    assert backbone.prompt(None) == "ask: "
    assert backbone.prompt("document") == backbone.model.prompts["document"]
    expected = backbone.model.encode(["why"], show_progress_bar=False)
    assert np.array_equal(backbone.embed(["why"]), expected)
    monkeypatch.delitem(backbone.model.prompts, "document")
    assert backbone.prompt("document") == "ask: "


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
    with pytest.raises(ValueError, match="pass a list"):
        backbone.embed("one string")
    with pytest.raises(ValueError, match=r"inputs\[1\] is int"):
        backbone.embed(["a", 3])
