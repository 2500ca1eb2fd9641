import os

import pyarrow as pa
import pytest

from csr_hf.data.mapped import map_batches, take_rows


def make_batches(count=5, rows=100):
    for number in range(count):
        yield pa.RecordBatch.from_pydict({"n": [str(number * rows + row) for row in range(rows)]})


def test_batches_are_mapped_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    table = map_batches(make_batches())
    assert table.column("n").to_pylist() == [str(number) for number in range(500)]
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("limit", [1, 99, 100, 101, 499, 500, 501, None])
def test_no_more_rows_are_taken_than_wanted(limit):
    taken = []

    def watch():
        for batch in make_batches():
            taken.append(len(batch))
            yield batch

    rows = pa.Table.from_batches(take_rows(watch(), limit))
    assert len(rows) == min(limit or 500, 500)
    assert sum(taken) < len(rows) + 100


def test_a_full_disk_is_named():
    resource = pytest.importorskip("resource")
    import datasets

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"^its columns do not fit into .*\. Make room there, or choose") as error:
            map_batches(make_batches(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(datasets.config.HF_DATASETS_CACHE) in str(error.value)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match=r"^it has no rows\.$"):
        map_batches([])
