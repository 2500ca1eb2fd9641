"""Backbones that a plain list of modules would change: of 16 bits, with towers, cut, compared by dot product."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from csr_hf import CSREncoder, CSRModel, load_backbone
from csr_hf.publishing.export import export
from csr_hf.publishing.sentence_transformers import write_full
from csr_hf.repository import open_repository
from tests.helpers.backbones import KINDS, load_stock
from tests.helpers.clip import caption, picture
from tests.helpers.doors import plain
from tests.helpers.runs import make_once
from tests.publishing.conftest import change_json, make_head


@pytest.fixture
def backbone_of(session_folder):
    """Make the tiny backbone of a kind once a session, and load it."""

    def load(name, **settings):
        folder = make_once(session_folder / f"backbone_{name}", lambda folder: KINDS[name].save(folder / "model"))
        return load_backbone(str(folder / "model"), device="cpu", **{**KINDS[name].settings, **settings})

    return load


def make_encoder(backbone, **sizes):
    modalities = ["image", "text"] if "image" in backbone.modalities else None
    head = make_head(
        input_dim=backbone.dim,
        hidden_dim=96,
        k=8,
        modalities=modalities,
        base_model_name_or_path=backbone.name,
        base_model_settings=backbone.settings.to_record(),
        **sizes,
    )
    if modalities:
        torch.nn.init.normal_(head.modality_bias, std=0.1)
    return CSREncoder(backbone, head)


def write(encoder, folder):
    folder.mkdir()
    write_full(encoder.backbone, encoder.head, folder)
    return SparseEncoder(str(folder), device="cpu"), CSREncoder.from_pretrained(folder, device="cpu")


def rows(codes, is_unit=True):
    return (codes.normalize() if is_unit else codes).to_torch().to_dense()


def head_types(model):
    return {module.encoder.weight.dtype for module in model.modules() if isinstance(module, SparseAutoEncoder)}


@pytest.mark.parametrize(
    ("name", "dtype"), [("bert", "bfloat16"), ("bert", "float16"), ("router", "bfloat16"), ("clip", "bfloat16")]
)
def test_backbone_of_16_bits_leaves_the_head_in_float32(backbone_of, tmp_path, name, dtype):
    encoder = make_encoder(backbone_of(name, dtype=dtype))
    assert next(encoder.backbone.model.parameters()).dtype == getattr(torch, dtype)
    stock, own = write(encoder, tmp_path / "out")
    assert head_types(stock) == {torch.float32}
    assert next(stock.parameters()).dtype == getattr(torch, dtype)
    assert own.backbone.fingerprint == encoder.backbone.fingerprint
    is_clip = name == "clip"
    inputs = [caption(number) for number in range(4)] if is_clip else KINDS[name].sentences(4)
    for way in ("encode", "encode_query", "encode_document"):
        for k in (8, 3):
            expected = rows(plain(encoder, way)(inputs, max_active_dims=k))
            torch.testing.assert_close(getattr(stock, way)(inputs, max_active_dims=k).to_dense(), expected)
            torch.testing.assert_close(rows(plain(own, way)(inputs, max_active_dims=k)), expected)
    again, _ = write(own, tmp_path / "again")
    assert head_types(again) == {torch.float32}
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in tmp_path.iterdir()]
    assert names[0] == names[1]
    if is_clip:
        pictures = [picture(number) for number in range(3)]
        torch.testing.assert_close(stock.encode(pictures).to_dense(), rows(encoder.encode(pictures)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_of_16_bits_is_written_in_float32(backbone_of, tmp_path, dtype):
    encoder = make_encoder(backbone_of("bert"))
    encoder.head.to(dtype).save_pretrained(tmp_path / "half")
    for layout, options in (("full", {}), ("head", {"base_model": "user/name"})):
        done = export(tmp_path / "half", tmp_path / layout, layout=layout, device="cpu", **options)
        written = CSRModel.from_pretrained(done.folder)
        assert written.dtype == torch.float32
        assert torch.equal(written.encoder.weight, encoder.head.encoder.weight.float())
    own, stock = CSREncoder.from_pretrained(tmp_path / "full", device="cpu"), SparseEncoder(str(tmp_path / "full"))
    texts = KINDS["bert"].sentences(4)
    torch.testing.assert_close(stock.encode(texts).to_dense().cpu(), rows(own.encode(texts)))


def test_towers_of_a_router_stay_towers(backbone_of, tmp_path):
    encoder = make_encoder(backbone_of("router"))
    stock, own = write(encoder, tmp_path / "out")
    assert [type(module) for module in stock] == [Router, Normalize, SparseAutoEncoder, Normalize]
    assert [type(module) for module in own.backbone.model] == [Router, Normalize]
    texts = KINDS["router"].sentences(4)
    query, document = stock.encode_query(texts).to_dense(), stock.encode_document(texts).to_dense()
    assert (query - document).abs().max() > 0.1
    torch.testing.assert_close(query, rows(encoder.encode(texts, task="query")))
    torch.testing.assert_close(document, rows(own.encode(texts, task="document")))


@pytest.mark.parametrize("place", ["settings", "config_sentence_transformers.json"])
def test_cut_embeddings_are_cut_in_the_export(backbone_of, tmp_path, place):
    """Whether the user says so or the model's own files do."""
    if place == "settings":
        backbone = backbone_of("bert", truncate_dim=12)
    else:
        KINDS["bert"].save(tmp_path / "model")
        change_json(tmp_path / "model" / place, truncate_dim=12)
        backbone = load_backbone(str(tmp_path / "model"), device="cpu")
    encoder = make_encoder(backbone)
    assert encoder.head.config.input_dim == 12
    stock, own = write(encoder, tmp_path / "out")
    assert own.head.config.base_model_settings == {"truncate_dim": 12}
    texts = KINDS["bert"].sentences(4)
    codes = encoder.encode(texts, max_active_dims=5)
    torch.testing.assert_close(stock.encode(texts, max_active_dims=5).to_dense(), rows(codes))
    np.testing.assert_allclose(own.embed(texts), backbone.embed(texts), atol=1e-6)


def test_codes_compared_by_dot_product_keep_their_norms(backbone_of, tmp_path):
    encoder = make_encoder(backbone_of("dot"))
    stock, own = write(encoder, tmp_path / "out")
    assert [type(module) for module in stock][-1] is SparseAutoEncoder
    assert stock.similarity_fn_name == own.backbone.similarity_fn_name == "dot"
    texts = KINDS["dot"].sentences(4)
    torch.testing.assert_close(stock.encode(texts).to_dense(), rows(encoder.encode(texts), is_unit=False))


def test_lengths_and_prompts_are_those_of_the_settings(backbone_of, tmp_path):
    prompts = {"query": "web_search_query", "document": "text: "}
    encoder = make_encoder(backbone_of("instructed", prompts=prompts, max_seq_length=30))
    stock, own = write(encoder, tmp_path / "out")
    assert stock.max_seq_length == own.backbone.model.max_seq_length == 30
    assert stock.prompts["document"] == "text: "
    texts = [" ".join(KINDS["instructed"].sentences(8, seed)) for seed in range(3)]
    for way in ("encode_query", "encode_document"):
        torch.testing.assert_close(getattr(stock, way)(texts).to_dense(), rows(plain(encoder, way)(texts)))
    whole = load_stock(encoder.backbone.name, KINDS["instructed"]).encode_document(texts, prompt="text: ")
    assert np.abs(whole - encoder.embed(texts, task="document")).max() > 1e-3


def test_routers_of_a_stranger_are_read_with_care(backbone_of, tmp_path):
    write(make_encoder(backbone_of("bert", dtype="bfloat16")), tmp_path / "out")
    settings = tmp_path / "out" / "0_Router" / "router_config.json"
    content = json.loads(settings.read_text())
    types = dict(content["types"])
    settings.write_text(json.dumps({**content, "types": {**types, "all_1_Pooling": "os.Evil"}}))
    with pytest.raises(ValueError, match=r"code of its own|trust_remote_code"):
        CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    for wrong in ([], {"types": ["SparseAutoEncoder"]}):
        settings.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="does not say which modules are in the Router"):
            CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    settings.write_text(json.dumps(content))
    listing = tmp_path / "out" / "modules.json"
    (entry,) = json.loads(listing.read_text())
    listing.write_text(json.dumps([entry, {**entry, "idx": 1, "name": "1"}]))
    with pytest.raises(ValueError, match="names 2 modules with a head; one is expected"):
        _ = open_repository(tmp_path / "out").is_packed
