"""Texts in, hits out: what is found, kept, added, deleted, filtered, saved, and what is refused."""

import threading

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import torch
from datasets import Dataset

from csr_hf import CSREncoder, InvertedIndex, SearchIndex, SearchParams, load_backbone
from tests.conftest import make_head

WORDS = "red blue green fast slow open close first second list number tree".split()
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS[:6] for c in WORDS[6:]][:300]
METADATA = [{"lang": ["en", "de", None][at % 3], "price": at / 10, "sku": f"s{at}"} for at in range(300)]
EXACT = SearchParams(nprobe=None, candidates=1000)


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    backbone = load_backbone(str(tiny_folder("dot")), device="cpu")
    return CSREncoder(backbone, make_head(input_dim=backbone.dim, hidden_dim=128, k=8))


@pytest.fixture(scope="module")
def built(encoder):
    ids = [f"d{at}" for at in range(300)]
    return SearchIndex.build(encoder, TEXTS, ids=ids, metadata=METADATA, row_bytes=16, residual_bytes=16)


@pytest.fixture
def saved(built, tmp_path):
    built.save(tmp_path / "docs")
    return tmp_path / "docs"


def load(saved, encoder):
    return SearchIndex.load(saved, encoder)


def test_hits_carry_what_is_known_of_a_document(built, encoder):
    (hit,) = built.search(TEXTS[7], 1, EXACT)
    number = int(hit.id[1:])
    assert (hit.text, hit.metadata, hit.thumbnail) == (TEXTS[number], METADATA[number], None)
    assert (hit.read("text"), hit.read("price"), hit.read("id")) == (hit.text, number / 10, hit.id)
    several = built.search([TEXTS[7], TEXTS[8]], 3, EXACT)
    assert [len(hits) for hits in several] == [3, 3] and several[0][0].id == hit.id
    queries = encoder.embed([TEXTS[7], TEXTS[8]], task="query")
    assert built.search(queries, 3, EXACT) == several
    for single in (queries[0], torch.tensor(queries[0]), TEXTS[7]):
        found = built.search(single, 3, EXACT)
        assert [hit.id for hit in found] == [hit.id for hit in several[0]]
        # Sums of one row and of several are rounded otherwise.
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in several[0]], rel=1e-5)
    assert built.search(text for text in (TEXTS[7], TEXTS[8])) == built.search((TEXTS[7], TEXTS[8]))
    assert built.search([]) == []
    assert len(built) == 300 and "d7" in built and "d300" not in built
    assert built.columns == ["text", "lang", "price", "sku"]
    assert repr(built).startswith("SearchIndex(n=300, ")


def test_hits_are_those_of_the_index_at_the_same_defaults(built, encoder):
    queries = encoder.embed(TEXTS[:9], task="query")
    assert [[hit.id for hit in hits] for hits in built.search(TEXTS[:9])] == built.index.search(queries).ids.tolist()


def test_fewer_documents_give_fewer_hits(encoder):
    few = SearchIndex.build(encoder, TEXTS[:3])
    for threads in (1, 2, 8):
        hits = few.search("red", 10, SearchParams(threads=threads))
        assert sorted(hit.id for hit in hits) == [0, 1, 2]
    assert few.search("red", 10, filter=[]) == []
    assert few.search("red", 10, filter=np.zeros(3, bool)) == []
    few.delete([1])
    assert sorted(hit.id for hit in few.search("red", 10**9)) == [0, 2]
    nothing = SearchIndex.build(encoder, [])
    assert nothing.search("red") == [] and len(nothing) == 0


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ('lang == "en" and price < 10', lambda row: row["lang"] == "en" and row["price"] < 10),
        ('not (sku in ["s1", "s2"]) and lang == None', lambda row: row["lang"] is None and row["sku"] != "s2"),
        ((pc.field("price") > 5) & (pc.field("lang") == "de"), lambda row: row["price"] > 5 and row["lang"] == "de"),
        (
            [f"d{at}" for at in range(5)] + ["unknown", None, 7],
            lambda row: row["sku"] in ("s0", "s1", "s2", "s3", "s4"),
        ),
        (np.arange(300) % 7 == 0, lambda row: int(row["sku"][1:]) % 7 == 0),
    ],
)
def test_filters_leave_the_ranking_as_it_is(built, condition, fits):
    everything = built.search(TEXTS[:5], 300, EXACT)
    filtered = built.search(TEXTS[:5], 20, EXACT, filter=condition)
    for hits, all_hits in zip(filtered, everything, strict=True):
        expected = [hit for hit in all_hits if fits(hit.metadata)][:20]
        assert sorted(hit.score for hit in hits) == pytest.approx(sorted(hit.score for hit in expected), rel=1e-5)
        assert all(fits(hit.metadata) for hit in hits)
    only_text = built.search("red", filter='text == "' + TEXTS[3] + '"')
    assert [hit.id for hit in only_text] == ["d3"]


def test_documents_are_added_and_deleted_with_their_metadata(saved, encoder):
    index = load(saved, encoder)
    index.add(["blue tree", "open list"], ids=["x", "y"], metadata={"price": [99.5, None]})
    assert index.search("blue tree", filter="price > 99")[0].metadata == {"price": 99.5, "lang": None, "sku": None}
    assert index.search("open list", filter="sku == None", params=EXACT)[0].text in ("blue tree", "open list")
    with pytest.raises(ValueError, match="'x' is in use"):
        index.add(["again"], ids=["x"])
    index.add(["red again"], ids=["x"], metadata=[{"lang": "fr"}], replace=True)
    assert [hit.text for hit in index.search("red", filter=["x"])] == ["red again"]
    assert index.delete(filter='lang == "de"') == 100
    assert index.delete(filter='lang == "de"') == 0
    assert index.delete(["x", "nothing"], missing_ok=True) == 1
    with pytest.raises(ValueError, match="no document 'x'"):
        index.delete(["x"])
    assert len(index) == 201
    index.index.compact()
    index.save(saved)
    again = load(saved, encoder)
    assert len(again) == 201
    for opened in (index, again):
        assert not opened.search("red", filter='lang == "de"')
        for hit in opened.search(TEXTS[:3], 300, EXACT)[0]:
            assert hit.id == "y" or hit.text == TEXTS[int(hit.id[1:])]


def test_what_is_saved_is_what_is_loaded(built, saved, encoder):
    for opened in (load(saved, encoder), SearchIndex.load(saved, encoder, verify=True)):
        assert opened.search(TEXTS[:9], 5) == built.search(TEXTS[:9], 5)
    assert {path.name for path in saved.iterdir()} == {"index", "model"}
    assert [path.suffixes for path in (saved / "index").glob("*.arrow")] == [[".documents", ".arrow"]]
    without = SearchIndex.load(saved, texts=False)
    rows = encoder.embed([TEXTS[0]], task="query")
    assert without.search(rows, 5) == built.search([TEXTS[0]], 5)
    with pytest.raises(ValueError, match="no backbone to embed them"):
        without.search("red")
    with pytest.raises(ValueError, match="no backbone to embed texts"):
        without.add(["red"])


def test_a_folder_names_its_backbone(tiny_folder, tmp_path):
    folder = str(tiny_folder("dot"))
    backbone = load_backbone(folder, device="cpu")
    head = make_head(input_dim=backbone.dim, hidden_dim=128, k=8, base_model_name_or_path=folder)
    built = CSREncoder(backbone, head).build_index(TEXTS[:20])
    built.save(tmp_path / "docs")
    opened = SearchIndex.load(tmp_path / "docs", device="cpu")
    assert opened.search(TEXTS[:2], 3) == built.search(TEXTS[:2], 3)


def test_other_heads_and_folders_are_refused(built, saved, encoder, tmp_path):
    other = CSREncoder(encoder.backbone, make_head(input_dim=encoder.backbone.dim, hidden_dim=96, k=4))
    with pytest.raises(ValueError, match="built with another head"):
        SearchIndex.load(saved, other)
    with pytest.raises(ValueError, match="holds another head than this index"):
        SearchIndex.build(other, TEXTS[:3]).save(saved)
    with pytest.raises(FileNotFoundError, match="no index folder"):
        SearchIndex.load(tmp_path / "nothing", encoder)
    with pytest.raises(ValueError, match="that this one was not loaded from"):
        SearchIndex.build(encoder, TEXTS[:3]).save(saved)
    assert len(load(saved, encoder)) == 300
    SearchIndex.build(encoder, TEXTS[:3]).save(saved, overwrite=True)
    assert len(load(saved, encoder)) == 3


def test_an_index_without_its_texts_does_not_replace_one_with_them(saved):
    bare = InvertedIndex.load(saved / "index")
    with pytest.raises(ValueError, match=r"save it with `SearchIndex\.save`"):
        bare.save(saved / "index")


def test_bytes_of_a_document_do_not_change_when_others_are_deleted(saved, encoder):
    index = load(saved, encoder)
    before = index.index.bytes_per_document
    assert repr(index).startswith(f"SearchIndex(n=300, {before:.0f} bytes a document") and 30 < before < 400
    index.delete([f"d{at}" for at in range(250)])
    assert index.index.bytes_per_document == before


def test_how_to_search_is_no_latent(saved, encoder):
    with pytest.raises(TypeError, match=r"takes no `recall` beside .*SearchParams\(recall=0\.9\)"):
        load(saved, encoder).search("red", recall=0.9)


def test_two_writers_lose_nothing(saved, encoder):
    one, two = load(saved, encoder), load(saved, encoder)
    one.add(["from one"], ids=["one"])
    one.save(saved)
    two.add(["from two"], ids=["two"])
    with pytest.raises(ValueError, match=r"saved by another process.*Load it again"):
        two.save(saved)
    two = load(saved, encoder)
    two.add(["from two"], ids=["two"])
    two.save(saved)
    assert {"one", "two"} <= {hit.id for hit in load(saved, encoder).search("from", 302, EXACT)}


def test_searches_beside_changes_show_the_texts_of_their_hits(saved, encoder):
    index, done, wrong = load(saved, encoder), threading.Event(), []
    query = encoder.embed([TEXTS[0]], task="query")

    def look():
        while not done.is_set():
            for hit in index.search(query, 20)[0]:
                if hit.text != (TEXTS[int(hit.id[1:])] if hit.id[0] == "d" else "new"):
                    wrong.append(hit)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for at in range(10):
        index.add(["new"], ids=[f"n{at}"])
        index.delete([f"d{at}"])
        index.index.compact()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


@pytest.mark.parametrize(
    "table",
    [
        Dataset.from_dict({"id": ["a", "b"], "text": ["red", "blue"], "year": [1, 2]}),
        pd.DataFrame({"id": ["a", "b"], "text": ["red", "blue"], "year": [1, 2]}),
        Dataset.from_dict({"id": ["a", "b"], "text": ["red", "blue"], "year": [1, 2]}).data.table,
    ],
)
def test_tables_bring_ids_and_metadata(encoder, table):
    index = SearchIndex.build(encoder, table)
    assert index.search("blue", filter="year == 2")[0][:1] == ("b",)
    index.add(table, ids=["c", "d"])
    assert len(index.search("blue", filter="year == 2")) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": ["a", "a", "b"]}, "unique; 'a' appears"),
        ({"ids": ["a"]}, "holds 1 ids, but there are 3 documents"),
        ({"metadata": {"year": [1]}}, "'year' holds 1 values for 3 documents"),
        ({"metadata": {"text": ["x"] * 3}}, "has a column 'text'"),
        ({"texts": "red"}, "one string"),
        ({"texts": ["red", None, "blue"]}, "None|missing"),
        ({"texts": {"red", "blue"}}, "no order"),
        ({"texts": pd.DataFrame({"body": ["a"]})}, "without a column 'text'; it has body"),
    ],
)
def test_documents_that_cannot_be_indexed_are_refused(encoder, given, message):
    with pytest.raises(ValueError, match=message):
        SearchIndex.build(encoder, **{"texts": TEXTS[:3], **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queries": " "}, "a query is empty"),
        ({"queries": ["red", ""]}, "a query is empty"),
        ({"queries": None}, "queries"),
        ({"queries": "red", "top_k": 0}, "`top_k`"),
        ({"queries": "red", "filter": "yeer > 3"}, "no column 'yeer'"),
        ({"queries": "red", "filter": 'prise < "1"'}, "Did you mean `price`"),
        ({"queries": "red", "filter": np.ones(3, bool)}, "300"),
        ({"queries": np.full((1, 32), np.nan, np.float32)}, "NaN"),
        ({"queries": np.zeros((1, 3), np.float32)}, r"\(n, "),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(built, given, message):
    with pytest.raises(ValueError, match=message) as error:
        built.search(**given)
    assert "\n" not in str(error.value)


def test_delete_takes_ids_or_a_filter(built):
    for given in ({}, {"ids": ["a"], "filter": "price > 3"}):
        with pytest.raises(ValueError, match="either `ids` or `filter`"):
            built.delete(**given)


def test_a_condition_that_replaced_rows_fit_deletes_none_of_those_that_took_their_place(saved, encoder):
    index = load(saved, encoder)
    doomed = [hit.id for hit in index.search("red", 300, EXACT, filter='lang == "de"')]
    index.add(["blue", "red"], ids=doomed[:2], metadata=[{"lang": "en"}, {"lang": "de"}], replace=True)
    assert index.delete(filter='lang == "de"') == len(doomed) - 1
    assert doomed[0] in index.index
    assert not set(doomed[1:]) & {hit.id for hit in index.search("red", 300, EXACT)}


def test_bools_to_delete_by_are_one_for_each_position(built):
    before = len(built)
    for wrong in (before - 1, before + 1):
        with pytest.raises(ValueError, match=f"`filter` has {wrong} bools, there are {before} positions"):
            built.delete(filter=np.ones(wrong, bool))
    assert len(built) == before


def test_an_index_without_metadata_has_no_filters(encoder):
    rows = encoder.embed(TEXTS[:5], task="document")
    built = SearchIndex.build(encoder, TEXTS[:5])
    bare = SearchIndex(InvertedIndex.build(rows, built.coder), encoder)
    assert bare.search("red", 2)[0][2:] == (None, {}, None)
    with pytest.raises(ValueError, match="keeps no metadata"):
        bare.search("red", filter="price > 3")
    bare.add(["blue"])
    assert len(bare) == 6


def test_values_at_the_ends_of_their_types_are_kept_and_found(encoder, tmp_path):
    ids, words = [-(2**63), 2**63 - 1, 0, 7], ["red", "blue \0 zero", "green " * 100_000, "\U0001f600 \x1b[31m"]
    metadata = {
        "n": [-(2**63), 2**63 - 1, None, 0],
        "x": [5e-324, -1.7e308, float("inf"), None],
        "t": ["", None, "a\0b", "ä"],
    }
    index = SearchIndex.build(encoder, words, ids=ids, metadata=metadata)
    index.save(tmp_path / "docs")
    for found in (index, SearchIndex.load(tmp_path / "docs", encoder, verify=True)):
        for top_k in (4, 2**40):
            hits = found.search("red", top_k)
            assert sorted(hit.id for hit in hits) == sorted(ids)
            assert all(np.isfinite(hit.score) for hit in hits)
        kept = {hit.id: hit for hit in hits}
        assert [kept[one].text for one in ids] == words
        assert [kept[one].metadata["x"] for one in ids] == metadata["x"]
        for condition, expected in [
            (f"n == {-(2**63)}", ids[:1]),
            ("n > 0.5", ids[1:2]),
            ("x > 0", [ids[0], ids[2]]),
            ("x > 1e308", ids[2:3]),
            ("t == 'a\\x00b'", ids[2:3]),
            ("t == 'a'", []),
        ]:
            assert sorted(hit.id for hit in found.search("red", 9, EXACT, filter=condition)) == sorted(expected)


@pytest.mark.parametrize(
    "given",
    [
        {"ids": [None] * 3},
        {"ids": {"a", "b", "c"}},
        {"ids": ["\ud800", "b", "c"]},
        {"metadata": {"name": ["\ud800", "b", "c"]}},
        {"metadata": {"n": [2**70, 1, 2]}},
        {"metadata": {"n": {1, 2, 3}}},
        {"metadata": [None, {}, {}]},
    ],
)
def test_values_that_no_column_holds_are_refused_in_one_line(encoder, given):
    with pytest.raises(ValueError, match=r"`ids`|`metadata`") as error:
        SearchIndex.build(encoder, ["red", "blue", "green"], **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_queries_beyond_float32_are_refused(built, value):
    with pytest.raises(ValueError, match=r"NaN|infinity") as error:
        built.search(np.full(built.encoder.backbone.dim, value))
    assert "\n" not in str(error.value)


def test_a_name_is_no_encoder():
    with pytest.raises(ValueError, match=r"`encoder` \(str\) must be a CSREncoder"):
        SearchIndex.build("user/minilm-csr", ["a text"])


def test_a_thumbnail_of_the_user_stays_metadata(encoder):
    index = SearchIndex.build(encoder, ["red", "blue"], metadata={"thumbnail": ["r.png", "b.png"]})
    (hit,) = index.search("red", 1, EXACT, filter='thumbnail == "r.png"')
    assert (hit.metadata, hit.thumbnail) == ({"thumbnail": "r.png"}, None)


def test_an_embedding_of_16_bits_asks(encoder):
    index = SearchIndex.build(encoder, TEXTS[:20])
    asked = torch.tensor(encoder.embed(TEXTS[:2], task="query"))
    for kind in (torch.bfloat16, torch.float16):
        expected = index.search(asked.to(kind).float().numpy(), 3)
        assert index.search(asked.to(kind), 3) == expected
        assert index.search(asked[0].to(kind), 3) == expected[0]


def test_a_column_without_values_is_filled_by_later_documents(encoder, tmp_path):
    index = SearchIndex.build(encoder, ["red", "blue"], metadata=[{"x": None}, {"x": None}])
    index.add(["green"], metadata=[{"x": "hi"}])
    index.save(tmp_path / "two segments")
    compact = SearchIndex.load(tmp_path / "two segments", encoder)
    compact.index.compact()
    compact.save(tmp_path / "one")
    for opened in (index, compact, *(SearchIndex.load(folder, encoder) for folder in tmp_path.iterdir())):
        assert [hit.text for hit in opened.search("green", 3, EXACT, filter="x == 'hi'")] == ["green"]
