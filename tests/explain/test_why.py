"""Shares of latents sum to the score, whatever the code and with a residual or without."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf import Coder
from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.embedding.backbone import Backbone
from csr_hf.encoder import CSREncoder
from csr_hf.explain.latents import Latent, Latents
from csr_hf.explain.why import COMMON, REST, explain_match, split_score
from tests.coding.heads import make_head, make_rows

HEAD = make_head()


class Rows(Backbone):
    """A backbone whose inputs are numbers of rows, written as texts."""

    modalities = ("text",)
    similarity_fn_name = "cosine"

    def __init__(self, similarity="cosine"):
        self.dim, self.name, self.settings = 24, "rows", BackboneSettings()
        self.similarity_fn_name = similarity
        self.rows = make_rows(8)

    def embed(self, inputs, *_, **__):
        return self.rows[[int(number) for number in inputs]]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), k=st.integers(1, 24), by_dot=st.booleans(), has_rest=st.booleans())
def test_shares_sum_to_the_score(seed, k, by_dot, has_rest):
    query, document = make_rows(2, seed=seed).astype(np.float64)
    codes = encode_embeddings(HEAD, document[None].astype(np.float32), k, refine=True)
    decoded = decode_codes(HEAD, codes)[0].astype(np.float64)
    whole = document if has_rest else decoded
    match = split_score(HEAD, query, codes, document if has_rest else None, by_dot=by_dot)
    assert match.score == pytest.approx(float(query @ whole) if by_dot else cosine(query, whole), abs=1e-5)
    assert sum(share.score for share in match.shares) == pytest.approx(match.score, abs=1e-5)
    latents = [share for share in match.shares if share.latent is not None]
    assert {share.latent for share in latents} == set(codes.indices[0][codes.values[0] > 0].tolist())
    assert latents == sorted(latents, key=lambda share: -share.score)
    assert [share.name for share in match.shares if share.latent is None] == [COMMON, *([REST] if has_rest else [])]


def test_a_share_is_value_times_projection():
    query, document = make_rows(2)
    codes = encode_embeddings(HEAD, document[None], 3)
    match = split_score(HEAD, query, codes, by_dot=True)
    products = HEAD.dictionary.detach().numpy() @ query
    expected = {int(j): float(v * products[j]) for j, v in zip(codes.indices[0], codes.values[0], strict=True)}
    found = {share.latent: share.score for share in match.shares if share.latent is not None}
    assert found == pytest.approx(expected, rel=1e-4)
    assert match.shares[-1].score == pytest.approx(float(HEAD.pre_bias.detach().numpy() @ query), rel=1e-4)
    assert match.largest(2) == [share for share in match.shares[:2] if share.score > 0]


@pytest.mark.parametrize("has_residual", [False, True])
def test_documents_are_texts_or_their_codes(has_residual):
    encoder = CSREncoder(Rows(), HEAD)
    axes = np.eye(14, HEAD.config.input_dim, dtype=np.float32)
    coder = Coder(HEAD, k=6, residual=ScalarQuantizer(axes, 9) if has_residual else None)
    packed = coder.encode(encoder.backbone.rows[1:2])
    by_text, by_code = (explain_match(encoder, "0", given, coder=coder) for given in ("1", packed))
    assert by_text == by_code
    assert by_code.score == pytest.approx(cosine(encoder.backbone.rows[0], coder.decode(packed)[0]), abs=1e-5)
    assert (by_code.shares[-1].name == REST) is has_residual
    alone = explain_match(encoder, "0", "1")
    assert sum(share.score for share in alone.shares) == pytest.approx(alone.score, abs=1e-5)


def test_names_are_those_of_the_head():
    encoder = CSREncoder(Rows("dot"), HEAD)
    known = [Latent(number, f"name {number}", 0.1) for number in range(HEAD.config.hidden_dim)]
    match = explain_match(encoder, "0", "1", latents=Latents(known, HEAD.fingerprint, 10))
    assert all(share.name == f"name {share.latent}" for share in match.shares if share.latent is not None)
    with pytest.raises(ValueError, match=r"`latents` is of another head \(other\)"):
        explain_match(encoder, "0", "1", latents=Latents(known, "other", 10))


def test_what_cannot_be_split_is_refused():
    encoder = CSREncoder(Rows(), HEAD)
    codes = encode_embeddings(HEAD, make_rows(2))
    with pytest.raises(ValueError, match="codes of 2 documents"):
        explain_match(encoder, "0", codes)
    other = make_head(seed=5)
    with pytest.raises(ValueError, match="`document` is a code of another head"):
        explain_match(encoder, "0", encode_embeddings(other, make_rows(1)))
    with pytest.raises(ValueError, match="`coder` is of another head"):
        explain_match(encoder, "0", "1", coder=Coder(other, k=4))
    with pytest.raises(ValueError, match="compares by euclidean"):
        explain_match(CSREncoder(Rows("euclidean"), HEAD), "0", "1")


def test_a_code_of_nothing_scores_by_what_all_share():
    codes = encode_embeddings(HEAD, HEAD.pre_bias.detach().numpy()[None])
    with torch.no_grad():
        match = split_score(HEAD, make_rows(1)[0], codes)
    assert match.score == pytest.approx(sum(share.score for share in match.shares), abs=1e-6)
