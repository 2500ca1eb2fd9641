import numpy as np
import pytest
from datasets import Dataset

from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from tests.data.test_sources import COLUMNS, ROWS, write


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder", "splits"])
def test_every_format_gives_the_same_texts(tmp_path, kind):
    texts = load_sources(DataArguments(source=write(kind, tmp_path), columns=COLUMNS))[0]
    assert texts.roles == ("anchor", "positive")
    assert texts.query_role == "anchor"
    assert texts.document_role == "positive"
    assert list(texts.rows["anchor"]) == [row["question"] for row in ROWS]
    assert list(texts.rows["positive"]) == [row["answer"] for row in ROWS]
    assert list(texts.rows["id"])[:2] == ["0", "1"]


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
    with pytest.raises(ValueError, match=r"column 'embedding' of .*ragged.parquet does not hold .* width: row 1"):
        load_sources(DataArguments(source=str(tmp_path / "ragged.parquet")))
