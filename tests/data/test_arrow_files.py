import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from csr_hf.data.tables import Table

TEXTS = ["one", None, "", "null", "\U0001f600\u2028", "00123"]


def write_stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_file(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.parquet", pq.write_table),
        ("a.arrow", write_stream),
        ("a.arrow", write_file),
        ("a.arrow", lambda table, path: pl.from_arrow(table).write_ipc(path)),
        ("a.feather", lambda table, path: feather.write_feather(table, str(path))),
    ],
)
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_strings_of_every_type_in_every_format(tmp_path, name, write, kind):
    if name == "a.feather" and pa.types.is_string_view(kind):
        pytest.skip("feather has no views")
    texts = pa.array(TEXTS).cast(kind)
    write(pa.table({"n": list(range(6)), "a.b": texts, "text": texts}), tmp_path / name)
    table = Table(tmp_path / name)
    assert table.names() == ["n", "a.b", "text"]
    rows = table.read({"text": "text", "a.b": "text"})
    assert rows.column_names == ["text", "a.b"]
    assert list(rows["text"]) == TEXTS == list(rows["a.b"])
    assert list(table.read({"text": "text"}, limit=3)["text"]) == TEXTS[:3]


def test_types_of_other_columns_stay(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float16)), 2)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "l.parquet")
    rows = Table(tmp_path / "l.parquet").read({"label": "label"})
    assert rows.features["label"].names == ["no", "yes"]
    for name, write in (("v.parquet", pq.write_table), ("v.arrow", write_file)):
        write(pa.table({"embedding": vectors, "nested": [{"a": 1}, None, {"a": 2}]}), tmp_path / name)
        rows = Table(tmp_path / name).read({"embedding": "vectors"})
        assert rows.data.schema.field("embedding").type == vectors.type
        assert rows["embedding"][2] == [4.0, 5.0]


def test_an_index_of_pandas_is_a_column_of_its_own(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, None]}, index=["r", "s"])
    frame.to_parquet(tmp_path / "a.parquet")
    assert list(Table(tmp_path / "a.parquet").read({"text": "text"})["text"]) == ["a", "b"]


def test_columns_stay_on_the_disk(tmp_path):
    pq.write_table(pa.table({"text": ["word " * 200] * 20_000}), tmp_path / "a.parquet")
    write_stream(pa.table({"text": ["word " * 200] * 2000}), tmp_path / "a.arrow")
    before = pa.total_allocated_bytes()
    rows = [Table(tmp_path / name).read({"text": "text"}) for name in ("a.parquet", "a.arrow")]
    assert [len(part) for part in rows] == [20_000, 2000]
    # The columns of both have 22 MB.
    assert pa.total_allocated_bytes() - before < 1e6


def make_bad_texts():
    offsets, content = pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfe")
    return pa.table({"text": pa.Array.from_buffers(pa.string(), 2, [None, offsets, content]), "n": [1, 2]})


def test_damaged_files_are_named(tmp_path):
    for name, write in (("a.parquet", pq.write_table), ("a.arrow", write_stream)):
        write(make_bad_texts(), tmp_path / name)
        with pytest.raises(ValueError, match=r"^column 'text' is damaged between rows 0 and 1: .*Invalid UTF8"):
            Table(tmp_path / name).read({"text": "text"})
        assert list(Table(tmp_path / name).read({"n": "text"})["n"]) == [1, 2]
    table = pa.table({"text": ["word " * 50] * 1000})
    for name, write in (("b.parquet", pq.write_table), ("b.arrow", write_stream), ("c.arrow", write_file)):
        write(table, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for content in (whole[:-100], whole[: len(whole) // 2], whole[:8], b"no such thing"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=r"^it is damaged, or not of the format that its name") as error:
                Table(tmp_path / name).read({"text": "text"})
            assert "\n" not in str(error.value)


def test_files_without_rows_are_refused(tmp_path):
    for name, write in (("a.parquet", pq.write_table), ("a.arrow", write_stream), ("b.arrow", write_file)):
        write(pa.table({"text": pa.array([], pa.string())}), tmp_path / name)
        with pytest.raises(ValueError, match=r"^it has no rows\.$"):
            Table(tmp_path / name).read({"text": "text"})
