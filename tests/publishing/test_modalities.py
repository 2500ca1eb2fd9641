"""A head of two modalities in other libraries."""

import numpy as np
import torch

from csr_hf import CSREncoder
from csr_hf.publishing.export import export
from csr_hf.publishing.sentence_transformers import native_name, write_head
from tests.helpers.clip import caption, picture


def test_sentence_transformers_routes_both_modalities(photo_run, photos, tmp_path):
    """Without csr_hf's code: the exported modules are stock ones."""
    from sentence_transformers import SparseEncoder

    export(photo_run, tmp_path / "out", layout="full", device="cpu")
    assert (
        "encode `model.subtract_modality_mean(embeddings, modality)`" in (tmp_path / "out" / "README.md").read_text()
    )
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu")
    assert set(stock.modalities) == {"image", "text"}
    own = CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert own.backbone.source.endswith("itself")
    pictures, texts = [picture(number) for number in range(4)], [caption(number) for number in range(3)]
    for inputs in (pictures, texts):
        expected = own.encode(inputs).normalize().to_torch().to_dense()
        torch.testing.assert_close(stock.encode(inputs).to_dense(), expected, atol=1e-5, rtol=0)
    run = CSREncoder.from_pretrained(photo_run / "model", device="cpu")
    np.testing.assert_allclose(run.encode(pictures).values, own.encode(pictures).values, atol=1e-5)


def test_head_alone_is_a_router_of_sentence_transformers(photo_run, tmp_path):
    """As the card puts it together with a backbone that does not normalize."""
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Normalize

    own = CSREncoder.from_pretrained(photo_run / "model", device="cpu")
    write_head(own.head, tmp_path / "head")
    backbone = SentenceTransformer(own.backbone.name, device="cpu")
    head = Router.load(str(tmp_path / "head"), native_name(own.head))
    stock = SparseEncoder(modules=[*backbone.children(), Normalize(), head, Normalize()], device="cpu")
    for inputs in ([picture(3), picture(4)], [caption(3)]):
        expected = own.encode(inputs).normalize().to_torch().to_dense()
        torch.testing.assert_close(stock.encode(inputs).to_dense(), expected, atol=1e-5, rtol=0)
