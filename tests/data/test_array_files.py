import numpy as np
import pytest
from datasets import Dataset

from csr_hf.data.arguments import DataArguments
from csr_hf.data.array_files import holds_arrays, read_arrays
from csr_hf.data.sources import load_sources


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


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 8), np.int8), r'holds int8 of shape \(4, 8\), not floats .* Save array\.astype\("float32"\)\.$'),
        (np.ones(4, np.float32), r"holds float32 of shape \(4,\), not floats of shape .* Save one embedding a row\.$"),
        (np.zeros((0, 8), np.float32), r"has no rows with embeddings\."),
    ],
)
def test_arrays_that_are_no_embeddings_are_named(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy " + message):
        load_sources(DataArguments(source=str(tmp_path / "a.npy")))


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


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_archives_give_what_was_saved_and_are_mapped_where_they_are_not_compressed(tmp_path, vectors, save, order):
    labels = np.arange(30) % 3
    save(tmp_path / "a.npz", other=np.zeros(7), data=np.asarray(vectors, order=order), label=labels)
    embeddings, others = read_arrays(tmp_path / "a.npz", {})
    np.testing.assert_array_equal(embeddings, vectors)
    assert others.keys() == {"label"}
    np.testing.assert_array_equal(others["label"], labels)
    assert isinstance(embeddings, np.memmap) is (save is np.savez)
    if save is np.savez:
        with pytest.raises(ValueError, match="read-only"):
            embeddings[0] = 0


def test_labels_of_one_column_in_16_bits_are_classes(tmp_path, vectors):
    """So the code of Matryoshka representation learning dumps them, whose embeddings the paper uses."""
    np.savez(tmp_path / "a.npz", data=vectors, label=(np.arange(30) % 3 * 999).astype(np.float16).reshape(-1, 1))
    (source,) = load_sources(
        DataArguments(source=str(tmp_path / "a.npz"), columns={"embedding": "data", "label": "label"})
    )
    assert source.labels.tolist() == [0, 1, 2] * 10
    assert source.class_names == ("0", "999", "1998")


def test_files_of_a_folder_are_one_source_in_the_order_of_their_numbers(tmp_path, vectors):
    labels = np.arange(30)
    # Sorted as texts the last would come second.
    for start, end in ((0, 9), (9, 20), (20, 30)):
        np.savez(tmp_path / f"chunk_{start}_{end}.npz", data=vectors[start:end], label=labels[start:end])
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert holds_arrays(str(tmp_path))
    columns = {"embedding": "data", "label": "label"}
    (source,) = load_sources(DataArguments(source=str(tmp_path), columns=columns, held_out=0.3))
    assert source.name == tmp_path.name
    np.testing.assert_array_equal(source.vectors["embedding"][:], vectors)
    assert source.labels.tolist() == labels.tolist()
    (fewer,) = load_sources(DataArguments(source=str(tmp_path), columns=columns, limit=12, held_out=0.3))
    np.testing.assert_array_equal(fewer.vectors["embedding"][:], vectors[:12])
    np.testing.assert_array_equal(fewer.held_out, source.held_out[:12])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.ones((4, 5), np.float32), "label": np.arange(4)}, r"b.npz holds float32 5 wide, a.npz float32 4"),
        ({"data": np.ones((4, 4)), "label": np.arange(4)}, r"b.npz holds float64 4 wide, a.npz float32 4 wide"),
        ({"data": np.ones((4, 4), np.float32)}, r"b.npz has the arrays none beside the embeddings, a.npz label\.$"),
        ({"label": np.arange(4)}, r"b.npz holds no embeddings .* under 'embedding', but label int64\(4,\)"),
    ],
)
def test_files_of_a_folder_that_differ_are_named(tmp_path, vectors, arrays, message):
    np.savez(tmp_path / "a.npz", data=vectors, label=np.arange(30))
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path, {})


def test_folders_of_other_files_hold_no_arrays(tmp_path, vectors):
    assert not holds_arrays(str(tmp_path))
    np.save(tmp_path / "a.npy", vectors)
    assert holds_arrays(str(tmp_path))
    (tmp_path / "readme.txt").write_text("x")
    assert not holds_arrays(str(tmp_path))
    assert holds_arrays(str(tmp_path / "a.npy"))


def test_a_member_whose_header_promises_more_than_it_holds_is_refused(tmp_path, vectors):
    path = tmp_path / "a.npz"
    np.savez(path, data=vectors, label=np.arange(30))
    content = path.read_bytes()
    assert content.count(b"(30, 4)") == 1
    path.write_bytes(content.replace(b"(30, 4)", b"(90, 4)"))
    with pytest.raises(ValueError, match=r"a.npz' cannot be read"):
        read_arrays(path, {})


def test_a_column_of_ids_names_the_embeddings(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "rows.npz", embedding=vectors, sku=np.array([7, 5, 3, 1]))
    (source,) = load_sources(DataArguments(source=str(tmp_path / "rows.npz"), id_column="sku", held_out=0))
    assert list(source.rows["id"]) == ["7", "5", "3", "1"]
    with pytest.raises(ValueError, match=r"'ean', but .* has no such column"):
        load_sources(DataArguments(source=str(tmp_path / "rows.npz"), id_column="ean"))
