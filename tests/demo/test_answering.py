"""What the page answers: the same hits as the library's own searches, with what they cost."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from csr_hf.cli.main import main
from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.demo.answering import Settings, answer, reranks_of
from csr_hf.demo.comparing import compare
from csr_hf.demo.dense import find_dense, save_dense
from csr_hf.demo.results import show_answer
from csr_hf.demo.run_view import LONGEST, RunView
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.runs.folder import RunFolder
from csr_hf.search.params import SearchParams
from csr_hf.search_index import SearchIndex
from tests.conftest import make_head
from tests.demo.conftest import HOSTILE

QUESTION = "red bird look"


@pytest.fixture(scope="module")
def view(texts_run):
    return RunView.open(texts_run, device="cpu")


def ids(side):
    return [hit.document.id for hit in side.hits]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_codes_of_k_latents_rank_as_they_decode(view, k):
    query = view.embed(QUESTION)
    decoded = decode_codes(view.head, view.codes.truncate(k))
    expected = unit_rows(decoded) @ (query.row / np.linalg.norm(query.row))
    found = answer(view, QUESTION, Settings(k, "none", 5)).sparse
    np.testing.assert_allclose([hit.score for hit in found.hits], np.sort(expected)[::-1][:5], atol=1e-5)


def test_dense_hits_are_the_nearest_embeddings(view, texts_run):
    found = answer(view, QUESTION, Settings(8, "none", 4))
    texts = view.index.documents["text"].to_pylist()
    rows = unit_rows(view.backbone.embed(texts, task="document"))
    query = view.backbone.embed([QUESTION], task="query")[0]
    expected = np.sort(rows @ (query / np.linalg.norm(query)))[::-1][:4]
    # They are read from the cache, which keeps float16.
    np.testing.assert_allclose([hit.score for hit in found.dense.hits], expected, atol=2e-3)
    assert found.dense.bytes == 4 * 32


@pytest.mark.slow
def test_the_index_itself_is_searched_as_ever(view, texts_run):
    expected = [hit.id for hit in SearchIndex.load(texts_run, device="cpu").search(QUESTION, top_k=6)]
    assert ids(answer(view, QUESTION, Settings(2, "index", 6)).sparse) == expected


@pytest.mark.parametrize("rerank", ["codes", "float16"])
def test_reranked_candidates_have_the_scores_of_the_index(view, rerank):
    found = answer(view, QUESTION, Settings(8, rerank, 5)).sparse
    query = view.embed(QUESTION).row
    everything = view.index.search(query[None], 150, SearchParams(nprobe=None, candidates=150, rerank=rerank))
    scores = dict(zip(everything.ids[0].tolist(), everything.scores[0].tolist(), strict=True))
    assert [hit.score for hit in found.hits] == pytest.approx([scores[one] for one in ids(found)], abs=1e-5)
    assert ids(found) == sorted(ids(found), key=lambda one: -scores[one])


def test_fewer_latents_and_no_rerank_cost_fewer_bytes(view):
    sizes = [answer(view, QUESTION, Settings(k, "none")).sparse.bytes for k in (1, 4, 8)]
    assert sizes == sorted(set(sizes))
    full = answer(view, QUESTION, Settings(8, "float16")).sparse.bytes
    assert full == sizes[-1] + 2 * 32
    assert answer(view, QUESTION, Settings(8, "index")).sparse.bytes > full


def test_both_sides_say_where_the_other_has_a_hit(view):
    found = answer(view, QUESTION, Settings(8, "none", 10))
    theirs = ids(found.dense)
    for hit in found.sparse.hits:
        place = theirs.index(hit.document.id) + 1 if hit.document.id in theirs else None
        assert hit.other_rank == place
    assert found.common == len(set(theirs) & set(ids(found.sparse)))


def test_shares_and_the_question_name_latents_of_codes(view):
    found = answer(view, QUESTION, Settings(8, "none", 3))
    row = view.embed(QUESTION).row
    codes = encode_embeddings(view.head, row[None])
    assert list(found.asked) == codes.indices[0][codes.values[0] > 0].tolist()[:10]
    for hit in found.sparse.hits:
        assert all(share.score > 0 and share.name == view.name(share.latent) for share in hit.shares)


def test_steering_moves_the_sparse_side_alone(view):
    plain = answer(view, QUESTION, Settings(8, "none", 10))
    latent = int(np.argmax(view.fires))
    steered = answer(view, QUESTION, Settings(8, "none", 10, more=[latent]))
    assert ids(steered.dense) == ids(plain.dense)
    assert view.embed(QUESTION).row @ view.atoms[latent] < 0 or ids(steered.sparse) != ids(plain.sparse)
    with pytest.raises(ValueError, match="both wanted and unwanted"):
        answer(view, QUESTION, Settings(8, more=[latent], without=[latent]))


@pytest.mark.parametrize("rerank", ["none", "codes", "float16", "index"])
def test_required_latents_leave_documents_that_have_them(view, rerank):
    counts = np.bincount(view.codes.indices[view.codes.values > 0], minlength=view.index.dim)
    rare, often = (int(np.argsort(counts, kind="stable")[place]) for place in (-40, -1))
    having = (view.codes.indices == rare) & (view.codes.values > 0)
    expected = {str(view.index.ids_of(np.array([at]))[0]) for at in np.flatnonzero(having.any(axis=1))}
    found = answer(view, QUESTION, Settings(1, rerank, 50, must=[rare]))
    assert 0 < len(expected) < 50
    assert set(ids(found.sparse)) == expected
    assert len(found.dense.hits) == 50
    both = answer(view, QUESTION, Settings(1, rerank, 50, must=[rare, often]))
    assert set(ids(both.sparse)) <= expected
    with pytest.raises(ValueError, match="both wanted and unwanted"):
        answer(view, QUESTION, Settings(8, must=[rare], without=[rare]))


def test_no_document_with_all_required_latents_is_said(view):
    chosen = Settings(8, "none", 10, must=range(view.index.dim))
    assert "no document has all of these latents" in show_answer(view, answer(view, QUESTION, chosen), chosen)


@pytest.mark.parametrize(("k", "top_k"), [(-5, 0), (10**9, 10**9)])
def test_settings_out_of_range_are_brought_into_it(view, k, top_k):
    found = answer(view, QUESTION, Settings(k, "none", top_k, more=[-1, 10**6])).sparse
    assert len(found.hits) == (1 if top_k == 0 else 50)


def test_mistakes_are_named(view):
    with pytest.raises(ValueError, match="Ask in words"):
        answer(view, "  \n", Settings(8))
    with pytest.raises(ValueError, match="nothing of the kind"):
        answer(view, QUESTION, Settings(8, "nothing of the kind"))
    with pytest.raises(ValueError, match="two texts"):
        compare(view, "cat", " ", 8)


def test_long_questions_are_cut_and_said_to_be(view):
    found = answer(view, "cat " * LONGEST, Settings(8, "none", 3))
    assert found.is_cut
    assert len(found.question) == LONGEST


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_is_asked_is_answered(view, text):
    assert answer(view, text, Settings(8, "none", 3)).sparse.hits


def test_latents_that_texts_share_explain_their_likeness(view):
    same = compare(view, "cat dog", "cat dog", 6)
    assert same.dense == pytest.approx(1)
    assert same.sparse == pytest.approx(1)
    assert len(same.shared) <= 6
    assert sum(pair.share for pair in same.shared) == pytest.approx(1)
    assert not same.only_first
    other = compare(view, "cat dog", "blue water", 8)
    assert other.dense < 1
    assert not {pair.latent for pair in other.shared} & (other.only_first.keys() | other.only_second.keys())


def test_deleted_documents_are_not_found(texts_run, tmp_path):
    shutil.copytree(texts_run, tmp_path / "run")
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    best = index.search(QUESTION, top_k=3)
    index.delete([hit.id for hit in best])
    index.save(tmp_path / "run")
    view = RunView.open(tmp_path / "run", device="cpu")
    assert view.size == 147
    for rerank in reranks_of(view):
        found = answer(view, QUESTION, Settings(8, rerank, 50))
        assert not {hit.id for hit in best} & {*ids(found.sparse), *ids(found.dense)}


def test_an_empty_index_says_so_and_finds_nothing(texts_run, tmp_path):
    shutil.copytree(texts_run, tmp_path / "run")
    index = SearchIndex.load(tmp_path / "run", device="cpu")
    index.delete(filter='text != "nothing like it"')
    index.index.compact()
    index.save(tmp_path / "run")
    view = RunView.open(tmp_path / "run", device="cpu")
    assert any("index is empty" in note for note in view.notes)
    for rerank in reranks_of(view):
        assert answer(view, QUESTION, Settings(8, rerank)).sparse.hits == []


def test_a_run_without_names_says_which_command_makes_them(texts_run, tmp_path):
    shutil.copytree(texts_run, tmp_path / "run")
    files = RunFolder.of(tmp_path / "run")
    files.latents.unlink()
    view = RunView.open(files.path, device="cpu")
    assert view.name(3) == "latent 3"
    assert "`csr-hf explain run` names them" in view.notes[0]
    files.latents.write_text("{}")
    assert "`csr-hf explain run` names them" in RunView.open(files.path, device="cpu").notes[0]


def test_embeddings_are_found_beside_the_index_or_made(texts_run, tmp_path, view):
    shutil.copytree(texts_run, tmp_path / "run")
    files = RunFolder.of(tmp_path / "run")
    # Without its data and cache, the run has its texts alone.
    files.recipe.unlink()
    index = SearchIndex.load(files.path, device="cpu")
    made = find_dense(files, index.index, view.backbone).rows
    np.testing.assert_allclose(unit_rows(made), view.dense, atol=2e-3)
    save_dense(files, made)
    np.testing.assert_allclose(find_dense(files, index.index, view.backbone).rows, made, atol=1e-2)
    np.save(files.dense, made[:5])
    np.testing.assert_allclose(find_dense(files, index.index, view.backbone).rows, made, atol=1e-6)
    files.dense.write_bytes(b"no array")
    np.testing.assert_allclose(find_dense(files, index.index, view.backbone).rows, made, atol=1e-6)


def test_too_many_documents_to_embed_leave_the_dense_side_out(texts_run, tmp_path, view, monkeypatch):
    shutil.copytree(texts_run, tmp_path / "run")
    files = RunFolder.of(tmp_path / "run")
    files.recipe.unlink()
    monkeypatch.setattr("csr_hf.demo.dense.MOST_EMBEDDED", 10)
    found = RunView.open(files.path, device="cpu")
    assert found.dense is None
    assert any("no dense side" in note for note in found.notes)
    assert answer(found, QUESTION, Settings(8)).dense is None


def test_ids_and_texts_that_name_pictures_open_none(tiny_folder, tmp_path):
    """They are whatever their author wrote, and a Space shows its visitors what it opens."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "private.png")
    backbone, path = tiny_folder("router"), str(tmp_path / "private.png")
    make_head(input_dim=32, hidden_dim=96, k=8, base_model_name_or_path=str(backbone)).save_pretrained(
        tmp_path / "head"
    )
    lines = [{"sku": path, "text": "a red bird"}, {"sku": "b", "text": f"see {path}"}, {"sku": "c", "text": path}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--corpus", str(tmp_path / "texts.jsonl"), "--head", str(tmp_path / "head"), "--device", "cpu"]
    assert main(["index", *words, "--id-column", "sku", "--output-dir", str(tmp_path / "run")]) == 0
    found = RunView.open(tmp_path / "run", device="cpu").read([0, 1, 2])
    assert [document.id for document in found] == [path, "b", "c"]
    assert [document.thumbnail for document in found] == [None] * 3
