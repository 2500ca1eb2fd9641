import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, LargeList, List, Value, concatenate_datasets

from csr_hf.data.vectors import ChunkedVectors, as_vectors, check_finite, column_vectors

ROWS = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


def column(rows, dtype="float32", length=-1, kind=List):
    inner = kind(Value(dtype)) if kind is LargeList else kind(Value(dtype), length=length)
    return Dataset.from_dict({"embedding": list(rows)}, features=Features({"embedding": inner}))


def test_arrays_and_tensors_are_shared_not_copied():
    for dtype in (np.float16, np.float32):
        array = ROWS.astype(dtype)
        assert as_vectors(array, "mine") is array
        shared = as_vectors(torch.from_numpy(array).requires_grad_(), "mine")
        assert shared.dtype == dtype and np.shares_memory(shared, array)
    wide = ROWS.astype(np.float64)
    for given in (wide, torch.from_numpy(wide)):
        vectors = as_vectors(given, "mine")
        assert np.shares_memory(vectors.arrays[0], wide)
        assert vectors[:].dtype == np.float32 and np.array_equal(vectors[:], ROWS)
    half = torch.from_numpy(ROWS).bfloat16()
    vectors = as_vectors(half, "mine")
    assert vectors.shape == (50, 6) and len(vectors) == 50
    for rows in (slice(3, 9), np.array([7, 0, 7]), np.arange(50) % 3 == 0):
        assert np.array_equal(vectors[rows], half.float().numpy()[rows])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.ones((4, 2), np.int64),
            "mine does not hold embeddings but int64. Give floats; embed texts and images first",
        ),
        (np.ones((4, 2), bool), "but bool"),
        (np.array([["a"]]), "but texts"),
        (torch.ones(4, 2, dtype=torch.int32), r"but torch.int32"),
        (torch.eye(3).to_sparse(), r"but torch.float32, torch.sparse_coo"),
        (["a text", "another"], r"but a list of texts \('a text', ...\).*`csr-hf run`"),
        ("a text", r"but a text \('a text'\)"),
        (np.ones(4), r"mine has the shape \(4,\). Embeddings must have the shape \(n, input_dim\)"),
        (torch.ones(4, 2, 2), r"mine has the shape \(4, 2, 2\)"),
    ],
)
def test_what_is_no_embedding_is_refused(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        as_vectors(given, "mine")
    assert "\n" not in str(caught.value)


def test_chunks_are_read_like_one_array():
    chunks = ChunkedVectors(np.split(ROWS, [1, 20, 20, 33]))
    order = np.random.default_rng(1).permutation(50)
    shuffled = ChunkedVectors(np.split(ROWS, [7]), order)
    for rows in (
        slice(None),
        slice(40, 3, -2),
        np.array([49, 0, 19, 20, 20]),
        np.arange(50) % 2 == 1,
        np.array([], int),
    ):
        assert np.array_equal(chunks[rows], ROWS[rows])
        assert np.array_equal(shuffled[rows], ROWS[order][rows])
    assert np.array_equal(np.asarray(chunks), ROWS) and chunks.dtype == np.float32
    with np.errstate(over="raise"):
        assert np.isinf(ChunkedVectors([np.array([[1e300, 1.0]])])[:][0, 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("length", "kind"), [(-1, List), (6, List), (-1, LargeList)])
def test_columns_are_views_of_arrow(dtype, length, kind):
    if kind is LargeList and dtype == "float16":
        pytest.skip("another combination is enough")
    rows = ROWS.astype(dtype)
    dataset = concatenate_datasets([column(part, dtype, length, kind) for part in np.split(rows, [20])])
    expected = rows.astype(np.float16 if dtype == "float16" else np.float32)
    vectors = column_vectors(dataset, "embedding", "mine")
    assert len(vectors.arrays) == 2 and not any(array.flags.owndata for array in vectors.arrays)
    assert np.array_equal(vectors[:], expected)
    assert vectors[:].dtype == expected.dtype
    assert np.array_equal(column_vectors(dataset.select(range(5, 31)), "embedding", "mine")[:], expected[5:31])
    chosen = [44, 3, 20]
    assert np.array_equal(column_vectors(dataset.select(chosen), "embedding", "mine")[:], expected[chosen])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [3.0], [4.0, 5.0]], "does not hold embeddings of one width: row 1 holds 1 floats"),
        ([[1.0, 2.0], None], "does not hold embeddings of one width: row 1 holds nothing"),
        (pa.array([[], []], pa.list_(pa.float32())), "does not hold embeddings of one width: row 0 holds nothing"),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, None]], "has a missing value in row 2. Drop that row"),
        ([[1, 2], [3, 4]], "does not hold embeddings but list<item: int64>"),
        ([1.0, 2.0], "does not hold embeddings but double"),
        (["a", "b"], r"does not hold embeddings but string.*embed texts and images first"),
    ],
)
def test_columns_of_anything_else_are_refused(values, message):
    dataset = Dataset(pa.table({"x": values if isinstance(values, pa.Array) else pa.array(values)}))
    with pytest.raises(ValueError, match=f"column 'x' of mine {message}"):
        column_vectors(dataset, "x", "mine")


def test_bad_rows_are_counted_over_all_chunks():
    chunks = pa.chunked_array([[[1.0, 2.0]] * 3, [[3.0, 4.0], [5.0]]])
    with pytest.raises(ValueError, match="row 4 holds 1 floats"):
        column_vectors(Dataset(pa.table({"x": chunks})), "x", "mine")
    fixed = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    with pytest.raises(ValueError, match="row 1 holds nothing"):
        column_vectors(Dataset(pa.table({"x": fixed})), "x", "mine")
    empty = pa.chunked_array([], pa.list_(pa.float32()))
    with pytest.raises(ValueError, match="column 'x' of mine is empty"):
        column_vectors(Dataset(pa.table({"x": empty})), "x", "mine")


def test_rows_beyond_the_arrays_are_refused():
    vectors = ChunkedVectors([ROWS[:20], ROWS[20:]])
    for beyond in (-1, 50):
        with pytest.raises(IndexError, match=rf"`rows` go from .*{beyond}.* there are rows 0 to 49"):
            vectors[np.array([3, beyond])]


def test_what_is_no_number_is_named_by_source_and_row():
    rows = ROWS.copy()
    check_finite(rows, "mine.npy")
    for bad in (np.nan, -np.inf):
        rows[37, 5] = bad
        for vectors in (rows, as_vectors(torch.from_numpy(rows).bfloat16(), "mine"), ChunkedVectors([rows])):
            with pytest.raises(ValueError, match=r"mine.npy, row 37 holds NaN or infinity. Leave that row out"):
                check_finite(vectors, "mine.npy")
    with pytest.raises(ValueError, match=r"mine.npy, row 0 holds NaN"):
        check_finite(as_vectors(np.full((2, 3), 1e300), "mine"), "mine.npy")
