import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from csr_hf.data.arguments import DataArguments, SourceArguments
from csr_hf.data.sources import load_sources
from csr_hf.embedding.cache import fingerprint_texts

ROWS = [{"question": f"what is {n}", "answer": f"it is the number {n}", "n": n} for n in range(200)]
COLUMNS = {"anchor": "question", "positive": "answer"}


def write(kind, folder):
    dataset = Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    if kind == "csv":
        dataset.to_csv(path)
    elif kind == "tsv":
        dataset.to_csv(path, sep="\t")
    elif kind == "jsonl":
        dataset.to_json(path)
    elif kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "folder":
        dataset.save_to_disk(path)
    elif kind == "splits":
        DatasetDict(train=dataset, test=dataset.select(range(3))).save_to_disk(path)
    return str(path)


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder", "splits"])
def test_every_format_gives_the_same_texts(tmp_path, kind):
    texts = load_sources(DataArguments(source=write(kind, tmp_path), columns=COLUMNS))[0]
    assert texts.roles == ("anchor", "positive")
    assert texts.query_role == "anchor"
    assert texts.document_role == "positive"
    assert list(texts.rows["anchor"]) == [row["question"] for row in ROWS]
    assert list(texts.rows["positive"]) == [row["answer"] for row in ROWS]
    assert list(texts.rows["id"])[:2] == ["0", "1"]


def test_columns_named_like_roles_need_no_mapping(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"d{n}", "text": f"text {n}"}) for n in range(5)))
    texts = load_sources(DataArguments(source=str(path)))[0]
    assert texts.roles == ("text",)
    assert texts.query_role is None
    assert list(texts.rows["id"]) == ["d0", "d1", "d2", "d3", "d4"]


def test_empty_rows_are_dropped_texts_cut_and_rows_limited(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = ["aaaa", "", None, "   ", "bb", "cccccc"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in rows))
    texts = load_sources(DataArguments(source=str(path), limit=5, max_characters=3))[0]
    assert list(texts.rows["text"]) == ["aaa", "bb"]
    assert list(texts.rows["id"]) == ["0", "4"]


def test_split_goes_by_document_and_never_moves(tmp_path):
    few = load_sources(DataArguments(source=write("csv", tmp_path), columns=COLUMNS, held_out=0.3, limit=100))[0]
    path = tmp_path / "more.jsonl"
    repeated = ROWS + [{"question": "again", "answer": row["answer"].upper(), "n": 0} for row in ROWS]
    path.write_text("\n".join(map(json.dumps, repeated)))
    more = load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3))[0]
    assert np.array_equal(more.held_out[:100], few.held_out)
    assert np.array_equal(more.held_out[:200], more.held_out[200:])
    assert 0.2 < more.held_out.mean() < 0.4
    other = load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0.3, seed=1))[0]
    assert not np.array_equal(other.held_out, more.held_out)
    assert not load_sources(DataArguments(source=str(path), columns=COLUMNS, held_out=0))[0].held_out.any()


def test_missing_column_names_those_present(tmp_path):
    source = write("csv", tmp_path)
    with pytest.raises(ValueError, match=r"'frage'.*no such column.*question, answer, n"):
        load_sources(DataArguments(source=source, columns={"anchor": "frage", "positive": "answer"}))[0]
    with pytest.raises(ValueError, match=r"has none of the columns `text`.*question, answer, n"):
        load_sources(DataArguments(source=source))[0]


def test_column_of_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'n' holds int, not text, in row 0"):
        load_sources(DataArguments(source=write("csv", tmp_path), columns={"text": "n"}))[0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", "", "the file is empty"),
        ("header.csv", "text\n", "no data"),
        ("blank.jsonl", '{"text": " "}\n', "no rows with text"),
        ("broken.parquet", "not parquet", "cannot be read"),
        ("rows.docx", "x", "'.docx' are unknown. Known: .csv"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_sources(DataArguments(source=str(tmp_path / name)))[0]
    assert name in str(error.value)


def test_absent_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone.csv.*no such file"):
        load_sources(DataArguments(source=str(tmp_path / "gone.csv")))[0]
    with pytest.raises(ValueError, match="'nobody/nothing' cannot be read"):
        load_sources(DataArguments(source="nobody/nothing"))[0]
    with pytest.raises(ValueError, match=r"`data.split` \('dev'\).*train, test"):
        load_sources(DataArguments(source=write("splits", tmp_path), split="dev", columns=COLUMNS))[0]


@pytest.mark.parametrize(
    ("values", "name"),
    [({"held_out": 1.0}, "held_out"), ({"limit": 0}, "limit"), ({"columns": {"query": "q"}}, "columns")],
)
def test_arguments_out_of_range(values, name):
    with pytest.raises(ValueError, match=f"`(data.)?{name}`"):
        DataArguments(**values)


def test_fingerprint_depends_on_texts_their_borders_and_order():
    fingerprints = [
        fingerprint_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab"], ["ab\ud800"])
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprint_texts(iter(["ab", "c"])) == fingerprints[0]


def test_texts_of_a_list_are_joined(tmp_path):
    path = tmp_path / "lists.parquet"
    Dataset.from_dict({"text": [["a", "b"], [], ["c"]]}).to_parquet(path)
    assert list(load_sources(DataArguments(source=str(path), held_out=0))[0].rows["text"]) == ["a b", "c"]


def test_triplets_and_classes(tmp_path):
    path = tmp_path / "triplets.parquet"
    rows = [{"anchor": f"a{n}", "positive": f"p{n}", "negative": f"n{n}", "text": f"t{n}"} for n in range(6)]
    Dataset.from_list(
        [{**row, "label": label} for row, label in zip(rows, [3, 1, 3, None, -1, 1], strict=True)]
    ).to_parquet(path)
    (triplets,) = load_sources(DataArguments(source=str(path), held_out=0))
    assert triplets.roles == ("anchor", "positive", "negative")
    assert (triplets.document_role, triplets.query_role, triplets.labels) == ("positive", "anchor", None)
    assert list(triplets.rows["negative"])[:2] == ["n0", "n1"]
    columns = {"text": "text", "label": "label"}
    (labeled,) = load_sources(DataArguments(source=str(path), columns=columns, held_out=0))
    assert labeled.roles == ("text",)
    assert list(labeled.labels) == [1, 0, 1, -1, -1, 0]


def test_classes_may_be_names(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("text,label\none,b\ntwo,a\n,b\nthree,b\n")
    assert list(load_sources(DataArguments(source=str(path), held_out=0))[0].labels) == [1, 0, 1]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def test_embeddings_that_are_there_already(tmp_path, vectors):
    np.save(tmp_path / "plain.npy", vectors)
    np.savez(tmp_path / "authors.npz", data=vectors.astype(np.float64), label=np.arange(30) % 3)
    np.savez(tmp_path / "several.npz", first=vectors, second=vectors.astype(np.float16))
    Dataset.from_dict({"id": [f"d{n}" for n in range(30)], "embedding": vectors.tolist()}).to_parquet(
        tmp_path / "column.parquet"
    )
    cases = {
        "plain.npy": {},
        "authors.npz": {"embedding": "data", "label": "label"},
        "several.npz": {"embedding": "second"},
        "column.parquet": {},
    }
    for file, columns in cases.items():
        (source,) = load_sources(DataArguments(source=str(tmp_path / file), columns=columns, held_out=0.3, limit=20))
        assert source.roles == ("embedding",)
        assert len(source) == 20
        np.testing.assert_allclose(source.vectors["embedding"], vectors[:20], atol=2e-3)
        assert source.vectors["embedding"].dtype in (np.float16, np.float32)
        assert 0 < source.held_out.sum() < 20
        assert (source.labels is None) is (file != "authors.npz")
    assert list(load_sources(DataArguments(source=str(tmp_path / "column.parquet")))[0].rows["id"])[:2] == ["d0", "d1"]


def test_embeddings_that_cannot_be_used_are_named(tmp_path, vectors):
    np.savez(tmp_path / "several.npz", first=vectors, second=vectors)
    with pytest.raises(
        ValueError, match=r"no embeddings .* 'embedding', but first float32\(30, 4\), second.*Name the"
    ):
        load_sources(DataArguments(source=str(tmp_path / "several.npz")))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickled.npy' cannot be read"):
        load_sources(DataArguments(source=str(tmp_path / "pickled.npy")))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"broken.npz' cannot be read"):
        load_sources(DataArguments(source=str(tmp_path / "broken.npz")))
    Dataset.from_dict({"embedding": [[1.0, 2.0], [1.0]]}).to_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(ValueError, match="column 'embedding' does not hold embeddings"):
        load_sources(DataArguments(source=str(tmp_path / "ragged.parquet")))


def test_several_sources_keep_their_columns_limits_and_weights(tmp_path):
    csv, folder = write("csv", tmp_path), write("folder", tmp_path)
    arguments = DataArguments(
        limit=50,
        sources=[
            SourceArguments(source=csv, columns=COLUMNS, weight=2.0),
            SourceArguments(source=folder, columns={"text": "answer"}, limit=20),
        ],
    )
    sources = load_sources(arguments)
    assert [len(source) for source in sources] == [50, 20]
    assert [source.roles for source in sources] == [("anchor", "positive"), ("text",)]
    assert [source.weight for source in sources] == [2.0, None]
    assert [source.name for source in sources] == ["rows.csv", "rows.folder"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_streams_stop_at_the_limit(tmp_path, kind):
    arguments = DataArguments(source=write(kind, tmp_path), columns=COLUMNS, streaming=True, limit=30)
    first, again = load_sources(arguments)[0], load_sources(arguments)[0]
    questions = [row["question"] for row in ROWS]
    assert len(first) == 30
    assert set(first.rows["anchor"]) <= set(questions)
    assert list(first.rows["anchor"]) == list(again.rows["anchor"])
    assert list(first.rows["anchor"]) != questions[:30]  # Shuffled.


def test_streams_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`data.streaming` needs `data.limit`"):
        DataArguments(source="user/web", streaming=True)
    with pytest.raises(ValueError, match=r"gone.csv' cannot be read: there is no such file"):
        load_sources(DataArguments(source=str(tmp_path / "gone.csv"), streaming=True, limit=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0}, r"`weight` \(0\): should be greater than 0"),
        ({"columns": {"anchor": "a", "label": "b"}}, r"names the roles \['anchor', 'label'\]"),
        ({"limit": 0}, r"`limit` \(0\): should be greater than or equal to 1"),
    ],
)
def test_sources_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SourceArguments(**settings)
