"""Files of packed codes: whole or not at all, and nothing that they hold is believed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from csr_hf import PackedCodes, SparseCodes
from tests.coding.test_packing import packed_codes, same, unpacked
from tests.helpers.damaged_files import load_damaged


def with_residual(codes):
    return codes.with_residual(np.full((len(codes), 3), 7, np.uint8))


@pytest.mark.parametrize(
    "codes",
    [
        packed_codes(),
        packed_codes(dim=70_000),
        packed_codes(n=0),
        packed_codes(base=0.1),
        with_residual(packed_codes()),
        PackedCodes.from_levels(np.zeros((3, 0), int), np.zeros((3, 0), int), np.zeros(3, np.uint8), 5, 4, 1.0),
    ],
)
def test_save_and_load(tmp_path, codes):
    path, ids = tmp_path / "deep" / "codes.safetensors", [f"{row}\n\u2028" for row in range(len(codes))]
    codes.save(path, ids=ids)
    loaded = PackedCodes.load(path)
    assert same(loaded, codes)
    assert np.array_equal(unpacked(loaded), unpacked(codes))
    assert PackedCodes.load_ids(tmp_path / "deep" / "codes.safetensors") == [
        f"{row}\n\u2028" for row in range(len(codes))
    ]
    codes[::2].save(tmp_path / "half")
    assert same(PackedCodes.load(tmp_path / "half"), codes[::2])
    assert PackedCodes.load_ids(tmp_path / "half") is None
    assert (tmp_path / "half").stat().st_size < codes[::2].nbytes + 500


def test_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    codes = packed_codes()
    codes.save(tmp_path / "codes")
    with pytest.raises(ValueError, match=r"^`ids` has 1 names for 40 rows\. Give one for each\.$"):
        codes.save(tmp_path / "codes", ids=["a"])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        codes[:1].save(tmp_path / "codes")
    monkeypatch.undo()
    assert same(PackedCodes.load(tmp_path / "codes"), codes)
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


REFUSED = r"file is truncated, damaged, or no file of packed codes \(.*\)\. Encode and save again\.$"


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in ("dim", "k", "bits", "shift") for value in ("-1", "99999999999", "x", "1.5", "")),
        *({"base": value} for value in ("0", "-1", "nan", "inf", "1e300", "1e-45", "0.1", "x")),
        *({"head": value} for value in ("5", "[1]", "{", "[" * 100_000)),
        {"format": "csr_hf.sparse_codes"},
        {"dim": "3"},
        {"k": "1"},
        *({name: None} for name in ("dim", "k", "bits", "shift", "base", "head", "format")),
    ],
)
def test_settings_of_a_file_are_not_believed(tmp_path, change):
    packed_codes().save(tmp_path / "good")
    raw = (tmp_path / "good").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    metadata = header["__metadata__"] | change
    metadata = {name: value for name, value in metadata.items() if value is not None}
    save_file(load_file(tmp_path / "good"), tmp_path / "file", metadata)
    with pytest.raises(ValueError, match=REFUSED):
        PackedCodes.load(tmp_path / "file")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"rows": np.zeros((2, 3), np.float32)},
        {"rows": np.zeros((2, 3), np.int8)},
        {"rows": np.zeros(6, np.uint8)},
        {"rows": np.zeros((2, 3, 1), np.uint8)},
        {"rows": np.full((2, 30), 255, np.uint8)},
        {"rows": np.zeros((2, 9), np.uint8), "residual": np.zeros((3, 1), np.uint8)},
        {"rows": np.zeros((2, 9), np.uint8), "residual": np.zeros((2, 1))},
        {"rows": np.zeros((2, 9), np.uint8), "more": np.zeros((2, 1), np.uint8)},
    ],
)
def test_other_arrays_are_refused(tmp_path, tensors):
    metadata = {"format": "csr_hf.packed_codes", "dim": "50", "k": "4", "bits": "4", "shift": "2", "base": "1.0"}
    save_file(tensors, tmp_path / "file", metadata | {"head": "null"})
    with pytest.raises(ValueError, match=REFUSED):
        PackedCodes.load(tmp_path / "file")


def test_kinds_of_codes_are_told_apart(tmp_path):
    codes = packed_codes()
    codes.save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"its format is 'csr_hf\.packed_codes' instead of 'csr_hf\.sparse_codes'"):
        SparseCodes.load(tmp_path / "file")
    codes.unpack().save(tmp_path / "file")
    with pytest.raises(ValueError, match=REFUSED):
        PackedCodes.load(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        PackedCodes.load(tmp_path / "none")


def test_damaged_files_are_refused_or_hold_other_codes(tmp_path):
    with_residual(packed_codes(12)).save(tmp_path / "file")
    use = "found = codes.unpack(); assert found.to_scipy().shape == found.shape and found.pack(4).k <= codes.k"
    refused, read = load_damaged(tmp_path / "file", "PackedCodes", use, 7, 1500)
    assert refused > 300
    assert read > 100
