import json
import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from csr_hf import SparseCodes
from tests.helpers.damaged_files import load_damaged


def make_codes(n=20, k=6, dim=50, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(dim)[:k] for _ in range(n)]) if n else np.zeros((0, k), int)
    values = -np.sort(-rng.random((n, k)), axis=1).astype(dtype)
    values[values < 0.15] = 0
    return SparseCodes(indices, values, dim, "a-head")


def dense(codes):
    matrix = np.zeros(codes.shape, np.float32)
    for row in range(len(codes)):
        for latent, value in zip(codes.indices[row], codes.values[row], strict=True):
            matrix[row, latent] += value
    return matrix


def same(first, second):
    return (
        np.array_equal(first.indices, second.indices)
        and np.array_equal(first.values, second.values)
        and (first.dim, first.head_fingerprint, first.values.dtype)
        == (second.dim, second.head_fingerprint, second.values.dtype)
    )


@pytest.fixture
def codes():
    return make_codes()


def test_arrays_take_the_narrowest_types():
    codes = SparseCodes(np.array([[65_535, 3]]), np.array([[2.0, 1.0]]), 65_536)
    assert (codes.indices.dtype, codes.values.dtype) == (np.uint16, np.float32)
    codes = SparseCodes(np.array([[65_536, 3]]), np.array([[2.0, 1.0]], np.float16), 65_537)
    assert (codes.indices.dtype, codes.values.dtype) == (np.int32, np.float16)
    assert (codes.k, codes.shape, codes.nbytes) == (2, (1, 65_537), 12)


def test_arrays_of_the_right_type_are_not_copied():
    indices, values = np.zeros((3, 2), np.uint16), np.ones((3, 2), np.float32)
    codes = SparseCodes(indices, values, 8)
    assert np.shares_memory(codes.indices, indices)
    assert np.shares_memory(codes.values, values)


def test_truncation_is_a_view_of_the_largest(codes):
    small = codes.truncate(2)
    assert np.shares_memory(small.values, codes.values)
    assert np.array_equal(small.indices, codes.indices[:, :2])
    assert small.head_fingerprint == codes.head_fingerprint
    for k in (0, 7):
        with pytest.raises(ValueError, match=rf"`k` \({k}\) must be between 1 and the k of these codes \(6\)"):
            codes.truncate(k)


@pytest.mark.parametrize("rows", [slice(3, 9, 2), [4, 1], np.arange(20) % 3 == 0, np.array([-1, 0])])
def test_rows_can_be_sliced(codes, rows):
    assert np.array_equal(dense(codes[rows]), dense(codes)[rows])


def test_single_rows(codes):
    assert np.array_equal(dense(codes[5])[0], dense(codes)[5])
    assert np.array_equal(dense(codes[-1])[0], dense(codes)[-1])
    for row in (20, -21):
        with pytest.raises(IndexError, match="of 20 codes"):
            codes[row]


def test_normalized_rows_have_unit_norm_and_zeros_stay():
    codes = make_codes()
    codes.values[3] = 0
    norms = np.linalg.norm(dense(codes.normalize()), axis=1)
    np.testing.assert_allclose(np.delete(norms, 3), 1, rtol=1e-6)
    assert norms[3] == 0
    assert codes.astype("float16").normalize().values.dtype == np.float16


def test_conversions_equal_the_written_out_matrix(codes):
    expected = dense(codes)
    matrix = codes.to_scipy()
    assert np.array_equal(matrix.toarray(), expected)
    assert matrix.nnz == np.count_nonzero(codes.values)
    assert np.array_equal(codes.to_torch("dense").numpy(), expected)
    sparse = codes.to_torch()
    assert sparse.is_sparse
    assert sparse.is_coalesced()
    assert np.array_equal(sparse.to_dense().numpy(), expected)
    assert np.array_equal(codes.astype("float16").to_scipy().toarray(), dense(codes.astype("float16")))


def test_concatenation_stacks_and_refuses_what_differs(codes):
    assert same(SparseCodes.concatenate([codes[:5], codes[5:]]), codes)
    with pytest.raises(ValueError, match="`parts` is empty"):
        SparseCodes.concatenate([])
    for other in (codes.truncate(3), make_codes(dim=60), SparseCodes(codes.indices, codes.values, 50, "another")):
        with pytest.raises(ValueError, match=r"codes differ in \(k, dim, head\)"):
            SparseCodes.concatenate([codes, other])


def test_no_rows_at_all(tmp_path):
    codes = make_codes(0)
    assert (len(codes), codes.k) == (0, 6)
    assert codes.to_scipy().shape == codes.to_torch().shape == (0, 50)
    assert len(codes.normalize()) == len(codes[:3]) == 0
    codes.save(tmp_path / "codes")
    assert same(SparseCodes.load(tmp_path / "codes"), codes)


@pytest.mark.parametrize("codes", [make_codes(), make_codes(dtype=np.float16), make_codes(dim=70_000)])
def test_save_and_load(tmp_path, codes):
    codes.save(tmp_path / "deep" / "codes.safetensors")
    loaded = SparseCodes.load(tmp_path / "deep" / "codes.safetensors")
    assert same(loaded, codes)
    assert same(loaded[3:7].truncate(2), codes[3:7].truncate(2))


def test_a_slice_can_be_saved(tmp_path, codes):
    codes[::2].truncate(3).save(tmp_path / "codes")
    assert same(SparseCodes.load(tmp_path / "codes"), codes[::2].truncate(3))


def test_failed_save_leaves_the_old_file_alone(tmp_path, codes, monkeypatch):
    codes.save(tmp_path / "codes")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        codes[:1].save(tmp_path / "codes")
    monkeypatch.undo()
    assert same(SparseCodes.load(tmp_path / "codes"), codes)
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def header(layout):
    raw = json.dumps(layout).encode()
    return struct.pack("<Q", len(raw)) + raw


def damaged_headers():
    metadata = {"format": "csr_hf.sparse_codes", "dim": "9", "head": "null"}
    indices = {"dtype": "U16", "shape": [1, 1], "data_offsets": [4, 6]}
    values = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    for change in ({"dtype": "F64"}, {"shape": [2, 1]}, {"data_offsets": [-2, 2]}, {"data_offsets": None}):
        yield {"__metadata__": metadata, "indices": indices, "values": values | change}
    for change in ({"dim": "many"}, {"dim": None}, {"head": "{"}, {"format": "something else"}):
        yield {"__metadata__": metadata | change, "indices": indices, "values": values}
    yield {"__metadata__": {"format": "csr_hf.sparse_codes"}, "indices": indices, "values": values}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"x" * 100,
        struct.pack("<Q", 10) + b"not json!!",
        header({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header([1, 2]),
        *(header(damaged) + b"\0" * 8 for damaged in damaged_headers()),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"file is truncated, damaged, or no file of sparse codes .* Encode and save again"
    ):
        SparseCodes.load(tmp_path / "file")


def test_truncated_file_is_refused(tmp_path, codes):
    codes.save(tmp_path / "codes")
    content = (tmp_path / "codes").read_bytes()
    (tmp_path / "codes").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="codes is truncated, damaged"):
        SparseCodes.load(tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        SparseCodes.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("indices", 50, r"`indices` must lie in \[0, 50\); found .* to 50"),
        ("values", np.nan, "`values` holds NaN or infinity, first in row 7"),
        ("values", -1, "`values` must be non-negative"),
        ("values", 9, "descend within each row"),
    ],
)
def test_damaged_rows_are_refused(tmp_path, codes, name, value, message):
    """An index beyond `dim` would be read outside of an array."""
    getattr(codes, name)[7, -1] = value
    codes.save(tmp_path / "codes")
    with pytest.raises(ValueError, match=message):
        SparseCodes.load(tmp_path / "codes")


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([[0, 1]], [[1.0]], "must both have the shape"),
        ([0, 1], [1.0, 0.5], "must both have the shape"),
        ([[0.0, 1.0]], [[1.0, 0.5]], r"`indices` \(float64\) must be integers"),
        ([[0, 9]], [[1.0, 0.5]], r"must lie in \[0, 9\); found 0 to 9"),
        ([[-1, 3]], [[1.0, 0.5]], "found -1 to 3"),
        ([[0, 1], [2, 3]], [[1.0, 0.5], [np.nan, 0.5]], "NaN or infinity, first in row 1"),
        ([[0, 1]], [[0.5, 1.0]], "descend within each row"),
        ([[0, 1]], [[0.5, -1.0]], "non-negative"),
    ],
)
def test_bad_arrays_are_named(indices, values, message):
    with pytest.raises(ValueError, match=message):
        SparseCodes(np.array(indices), np.array(values), 9)


def test_names_of_rows_are_kept_beside_codes(tmp_path):
    codes = SparseCodes(np.array([[1, 0], [2, 0]]), np.array([[2.0, 1.0], [1.0, 0.0]], np.float32), 8)
    codes.save(tmp_path / "named", ids=["007", "two\nlines \u2028"])
    assert SparseCodes.load_ids(tmp_path / "named") == ["007", "two\nlines \u2028"]
    np.testing.assert_array_equal(SparseCodes.load(tmp_path / "named").indices, codes.indices)
    codes.save(tmp_path / "unnamed")
    assert SparseCodes.load_ids(tmp_path / "unnamed") is None
    with pytest.raises(ValueError, match=r"^`ids` has 1 names for 2 rows\. Give one for each\.$"):
        codes.save(tmp_path / "named", ids=["a"])
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        SparseCodes.load_ids(tmp_path / "gone")
    for ids in (b'["a"]', b"[1, 2]", b'"ab"', b"\xff", b"[["):
        tensors = {"indices": codes.indices, "values": codes.values, "ids": np.frombuffer(ids, np.uint8)}
        save_file(tensors, tmp_path / "bad")
        with pytest.raises(ValueError, match=r"bad has no ids that can be read \(.*\)\. Encode and save again\."):
            SparseCodes.load_ids(tmp_path / "bad")


def test_what_would_wrap_or_overflow_is_refused():
    one = np.zeros((1, 1), int)
    for dim in (0, -1, 2**31, 2**40, 5.5, "8"):
        with pytest.raises(ValueError, match=rf"`dim` \({dim!r}\) must be an integer from 1 to 2147483647"):
            SparseCodes(one, np.ones((1, 1)), dim)
        with pytest.raises(ValueError, match="`dim`"):
            SparseCodes(np.zeros((0, 1), int), np.zeros((0, 1)), dim)
    with np.errstate(all="raise"), pytest.raises(ValueError, match="`values` holds NaN or infinity, first in row 0"):
        SparseCodes(one, np.full((1, 1), 1e300), 5)
    assert SparseCodes(one + 2**31 - 2, np.ones((1, 1)), 2**31 - 1).indices.tolist() == [[2**31 - 2]]


@pytest.mark.parametrize(("dim", "latent"), [(50, 50), (50, 65_535), (70_000, 70_000), (70_000, -1)])
def test_latents_out_of_range_leave_in_no_form(dim, latent):
    """Other libraries read and write wherever an index says; codes may be unchecked, or changed since."""
    unchecked = SparseCodes(np.array([[1, 2], [3, latent]]), np.ones((2, 2), np.float32), dim, check=False)
    changed = SparseCodes(np.array([[1, 2], [3, 4]]), np.ones((2, 2), np.float32), dim)
    changed.indices[1, 1] = latent
    for codes in (unchecked, changed, changed[1:], changed[np.array([1, 0])]):
        for leave in (codes.to_scipy, codes.to_torch, lambda given=codes: given.to_torch("dense"), codes.pack):
            with pytest.raises(ValueError, match=r"\[0, \d+\)"):
                leave()


def test_heads_of_files_are_texts(tmp_path, codes):
    tensors = {"indices": codes.indices, "values": codes.values}
    for head in ("5", "[]", "[" * 100_000):
        save_file(tensors, tmp_path / "file", {"format": "csr_hf.sparse_codes", "dim": "50", "head": head})
        with pytest.raises(ValueError, match="file is truncated, damaged, or no file of sparse codes"):
            SparseCodes.load(tmp_path / "file")


def test_packing_delegates(codes):
    packed = codes.pack(5)
    assert (packed.bits, packed.k, packed.dim, packed.head_fingerprint) == (5, 6, 50, "a-head")
    np.testing.assert_allclose(dense(packed.unpack()), dense(codes), atol=0.03)


def test_damaged_files_are_refused_or_hold_other_codes(tmp_path):
    make_codes().save(tmp_path / "file")
    use = 'assert codes.to_scipy().toarray().shape == codes.shape; codes[::2].to_torch("dense")'
    refused, read = load_damaged(tmp_path / "file", "SparseCodes", use, 31, 600)
    assert refused > 100
    assert read > 20


def test_arrays_of_numpy_alone_are_codes():
    indices, values = [[1, 2]], [[0.5, 0.25]]
    with pytest.raises(ValueError, match="`indices` is a list"):
        SparseCodes(indices, np.array(values), 4)
    with pytest.raises(ValueError, match="`values` is a Tensor"):
        SparseCodes(np.array(indices), torch.tensor(values), 4)
    with pytest.raises(ValueError, match="`layout` \\('csr'\\) is unknown"):
        SparseCodes(np.array(indices), np.array(values), 4).to_torch("csr")


def test_a_folder_is_never_replaced_by_codes(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(IsADirectoryError):
        SparseCodes(np.array([[1, 2]]), np.array([[0.5, 0.25]]), 4).save(tmp_path)
    assert (tmp_path / "kept.txt").read_text() == "mine"
