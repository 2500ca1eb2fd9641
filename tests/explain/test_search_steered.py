"""An index is searched with latents added, removed and required, and says why it found what it found."""

import copy

import numpy as np
import pytest

from csr_hf import Coder
from csr_hf.explain.latents import Latent, Latents
from csr_hf.explain.steering import Steering, steer_queries
from csr_hf.search.index import InvertedIndex
from csr_hf.search_index import SearchIndex
from csr_hf.search_inputs import Encoder
from tests.coding.heads import make_head, make_rows

HEAD = make_head()
ROWS = make_rows(400, seed=3)


class Embeddings:
    """An encoder for embeddings alone."""

    backbone, head = None, HEAD


@pytest.fixture(scope="module")
def index():
    coder = Coder(HEAD, k=6)
    inner = InvertedIndex.build(ROWS, coder, [f"d{n}" for n in range(len(ROWS))])
    encoder: Encoder = Embeddings()
    found = SearchIndex(inner, encoder)
    found.latents = Latents([Latent(n, f"name {n}", 0.1) for n in range(HEAD.config.hidden_dim)], HEAD.fingerprint, 9)
    return found


def active(index, latent):
    """Ids of the documents whose stored code has a latent."""
    codes = index.index.codes
    rows = ((codes.indices == latent) & (codes.values > 0)).any(axis=1)
    return {f"d{n}" for n in np.flatnonzero(rows)}


def busiest(index, rank=0):
    codes = index.index.codes
    counts = np.bincount(codes.indices[codes.values > 0], minlength=codes.dim)
    return int(np.argsort(-counts, kind="stable")[rank])


def test_required_latents_are_in_every_hit_and_none_is_missed(index):
    first, second = busiest(index), busiest(index, 1)
    query = make_rows(1, seed=9)[0]
    hits = index.search(query, 400, must=[f"name {first}"])
    assert {hit.id for hit in hits} == active(index, first)
    both = index.search(query, 400, must=[first, second])
    assert {hit.id for hit in both} == active(index, first) & active(index, second)
    # Beside a condition of another kind, both hold.
    some = [f"d{n}" for n in range(0, 400, 2)]
    narrowed = index.search(query, 400, filter=some, must=[first])
    assert {hit.id for hit in narrowed} == active(index, first) & set(some)


def test_more_and_without_search_for_the_steered_query(index):
    queries = make_rows(3, seed=8)
    chosen = busiest(index)
    steering = Steering({chosen: 0.4}, (busiest(index, 2),))
    steered = index.search(queries, 7, more={f"NAME {chosen}": 0.4}, without=[busiest(index, 2)])
    expected = index.search(steer_queries(HEAD, queries, steering), 7)
    assert steered == expected
    assert steered != index.search(queries, 7)


def test_shares_of_a_hit_sum_to_its_score(index):
    query, steer = make_rows(1, seed=4)[0], {"more": {busiest(index): 0.5}}
    for keywords in ({}, steer):
        hits = index.search(query, 5, **keywords)
        for hit, match in zip(hits, index.explain(query, [hit.id for hit in hits], **keywords), strict=True):
            assert sum(share.score for share in match.shares) == pytest.approx(match.score, abs=1e-5)
            assert match.score == pytest.approx(hit.score, abs=2e-3)
            assert match.shares[0].name == f"name {match.shares[0].latent}"


def test_strongest_documents_of_a_latent(index):
    latent = busiest(index)
    hits = index.find_strongest(f"name {latent}", 4)
    codes = index.index.codes
    values = np.where(codes.indices == latent, codes.values, 0).max(axis=1)
    assert [hit.score for hit in hits] == pytest.approx(sorted(values, reverse=True)[:4])
    assert [values[int(hit.id[1:])] for hit in hits] == pytest.approx([hit.score for hit in hits])


def test_deleted_documents_are_no_strongest_and_no_hits():
    index = SearchIndex(InvertedIndex.build(ROWS, Coder(HEAD, k=6)), Embeddings())
    latent = busiest(index)
    best = index.find_strongest(latent, 2)
    index.delete([best[0].id])
    assert index.find_strongest(latent, 1)[0].id == best[1].id
    assert best[0].id not in {hit.id for hit in index.search(ROWS[0], 400, must=[latent])}
    with pytest.raises(ValueError, match=f"{best[0].id} is no id"):
        index.explain(ROWS[0], [best[0].id])


def test_mistakes_are_named(index):
    query = ROWS[0]
    with pytest.raises(ValueError, match=r"'nam 3' names no latent\. Did you mean"):
        index.search(query, without=["nam 3"])
    with pytest.raises(ValueError, match=r"`must` \('name 3'\) is a text"):
        index.search(query, must="name 3")
    with pytest.raises(TypeError, match="more_of"):
        index.search(query, more_of={})
    nameless = SearchIndex(index.index, Embeddings())
    with pytest.raises(ValueError, match=r"the latents have none yet\. `csr-hf explain RUN`"):
        nameless.search(query, must=["name 3"])
    with pytest.raises(ValueError, match="latent 96 does not exist"):
        nameless.search(query, must=[96])
    with pytest.raises(ValueError, match="`must` names the latent -1"):
        index.index.search(query[None], must=[-1])
    with pytest.raises(ValueError, match="2 queries"):
        index.explain(ROWS[:2], ["d0"])


def test_names_are_read_beside_the_index(tmp_path, index):
    SearchIndex(index.index, Embeddings()).save(tmp_path / "bare")
    assert SearchIndex.load(tmp_path / "bare", texts=False).latents is None
    index.save(tmp_path)
    loaded = SearchIndex.load(tmp_path, texts=False)
    wanted = loaded.search(ROWS[1], 3, must=[f"name {busiest(index)}"])
    assert wanted == index.search(ROWS[1], 3, must=[busiest(index)])
    Latents(index.latents.latents, "other", 9).save(tmp_path / "latents.json")
    with pytest.raises(ValueError, match="of another head"):
        SearchIndex.load(tmp_path, texts=False).search(ROWS[1], must=["name 3"])


def test_names_come_with_the_encoder(tmp_path, index):
    encoder = Embeddings()
    encoder.latents = index.latents
    made = SearchIndex(index.index, encoder)
    assert made.latents is index.latents
    made.save(tmp_path)
    assert SearchIndex.load(tmp_path, texts=False).latents.latents == index.latents.latents


def test_a_snapshot_sees_what_was_there(index):
    inner = InvertedIndex.build(ROWS, Coder(HEAD, k=6))
    snapshot = copy.copy(inner)
    inner.delete([0])
    assert 0 in snapshot and 0 not in inner
    assert snapshot.search(ROWS[:1], 1).ids[0, 0] == 0
