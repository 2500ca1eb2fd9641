"""Damaged files of codes and of coders: refused in one line that names the file, or read as what they say."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from csr_hf.coding.coder import Coder
from csr_hf.coding.compact import CompactCodes
from csr_hf.coding.compact_coder import CompactCoder
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.prior_fitting import fit_links, fit_prior
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.coding.transform import TransformQuantizer
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from csr_hf.sparse_codes import SparseCodes
from tests.helpers.damage import damage_arrays, damage_bytes, run_alone

KINDS = ["sparse", "packed", "compact", "coder", "compact coder"]
TEXTS = ["", "-1", "0", "1", "1.5", "nan", "inf", "null", "x", "[]", "7" * 30, "7" * 5000, "[" * 5000, '"x"', "3", "4"]
"""What may stand in the metadata."""
DTYPES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "F32": 4,
    "I64": 8,
    "F64": 8,
    "X": 1,
}


def make_coder(kind="coder"):
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(input_dim=16, hidden_dim=64, k=6)).eval()
    rows = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    coder = Coder(head, row_bytes=12)
    if "compact" in kind:
        learned = fit_links(coder.pursuit, rows, 12)
        coder = CompactCoder(head, row_bytes=12, prior=fit_prior(learned, coder.pursuit, rows, 12, 3))
    quantizer = TransformQuantizer if "compact" in kind else ScalarQuantizer
    coder.residual = quantizer.fit(rows - coder.decode(coder.encode(rows)), 4)
    return coder, rows[:40]


def write(kind, path):
    coder, rows = make_coder(kind)
    packed = coder.encode(rows)
    if kind.endswith("coder"):
        coder.save(path)
    else:
        (packed.unpack() if kind == "sparse" else packed).save(path, ids=[f"d{at}" for at in range(len(rows))])


def make_reader(kind):
    """A function that reads a file and does with it what the library does."""
    coder, rows = make_coder(kind)
    queries, packed = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32), coder.encode(rows)

    def read_coder(path):
        found = type(coder).load(path, coder.head)
        found.decode(found.encode(queries))
        return found.decode(found.encode(rows)) if kind == "compact coder" else found.decode(packed)

    def read_codes(path):
        codes = SparseCodes.load(path) if kind == "sparse" else PackedCodes.load(path)
        names = type(codes).load_ids(path)
        assert names is None or len(names) == len(codes)
        sparse = codes if kind == "sparse" else codes.unpack()
        if kind == "packed":
            codes[:3].to_levels()
            PackedCodes.concatenate([codes[:2], codes[1:]])
        assert np.isfinite(sparse.values).all()
        sparse.truncate(min(2, sparse.k)) if sparse.k else None
        return sparse.to_scipy() if sparse.dim < 2**31 else None

    def read_compact(path):
        codes = CompactCodes.load(path)
        names = CompactCodes.load_ids(path)
        assert names is None or len(names) == len(codes)
        CompactCodes.concatenate([codes[:2], codes[1:]])
        return coder.decode(CompactCodes(codes.rows, packed.coder, packed.head_fingerprint, codes.residual))

    if kind == "compact":
        return read_compact
    return read_coder if kind.endswith("coder") else read_codes


def change_header(raw):
    """Files whose header names another type or shape of the same bytes, or other places."""
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]

    def pack(changed):
        written = json.dumps(changed).encode()
        return struct.pack("<Q", len(written)) + written + data

    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        for dtype, width in DTYPES.items():
            n = (last - first) // width
            for shape in ([n], [1, n], [n, 1], [n, 0], [], [n // 4, 4], [2, 2, n // 4]):
                yield f"{name}: {dtype} {shape}", pack({**header, name: {**entry, "dtype": dtype, "shape": shape}})
        for offsets in ([0, last + 8], [last, first], [-1, last], [0, 2**63], [first], None, [0.5, 1]):
            yield f"{name} at {offsets}", pack({**header, name: {**entry, "data_offsets": offsets}})
    for metadata in (None, [], {"format": 3}, {}):
        yield f"metadata {metadata}", pack({**header, "__metadata__": metadata})


def damage_file(rng, raw, count):
    """Every way to damage a file of codes."""
    yield from damage_bytes(rng, raw, count, head=8 + struct.unpack("<Q", raw[:8])[0])
    yield from change_header(raw)
    size = struct.unpack("<Q", raw[:8])[0]
    arrays, metadata = load(raw), json.loads(raw[8 : 8 + size])["__metadata__"]
    for label, changed in damage_arrays(rng, arrays, count):
        yield label, save({name: np.ascontiguousarray(array) for name, array in changed.items()}, metadata)
    for name in metadata:
        yield f"{name} missing", save(arrays, {key: text for key, text in metadata.items() if key != name})
        for text in TEXTS:
            yield f"{name} is {text:.20}", save(arrays, {**metadata, name: text})
    for text in ("[]", "{}", '["a"]', "[1]" * 3, "[" * 10_000, "\ud800", "null"):
        ids = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        yield f"ids are {text[:20]!a}", save({**arrays, "ids": ids}, metadata)


def try_all(kind, folder, count):
    """Read damaged copies of one file, and print what became of them."""
    path, read, rng = Path(folder) / f"{kind}.safetensors", make_reader(kind), np.random.default_rng(0)
    write(kind, path)
    raw, tried, refused = path.read_bytes(), 0, 0
    read(path)
    for label, damaged in damage_file(rng, raw, count):
        sys.stdout.write(f"{label}\n")
        sys.stdout.flush()
        path.write_bytes(damaged)
        tried += 1
        try:
            read(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and path.name in str(error) and len(str(error)) < 1000, error
    sys.stdout.write(json.dumps({"tried": tried, "refused": refused}))


@pytest.mark.parametrize(("kind", "count"), [(kind, 6) for kind in KINDS])
def test_damaged_files_are_refused_or_read(tmp_path, kind, count):
    call = f"from tests.test_damaged_codes import try_all; try_all({kind!r}, {str(tmp_path)!r}, {count})"
    found = run_alone(call)
    # Most numbers of a prior, and all of compact codes, may be any.
    assert found["tried"] > 200 and found["refused"] > found["tried"] / (4 if "compact" in kind else 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_refused_or_read(tmp_path, kind):
    test_damaged_files_are_refused_or_read(tmp_path, kind, 400)
