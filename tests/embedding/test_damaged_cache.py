"""Damaged and hostile copies of an embedding cache: refused in one line that names it, or read without a crash."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from csr_hf.embedding import cache as caches
from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.embedding.cache_manifest import FORMAT, MANIFEST, read_manifest, write_manifest
from csr_hf.embedding.shards import write_shard
from tests.helpers.damage import VALUES, damage_arrays, damage_bytes, run_alone

NAMES = ["shard-00000.arrow", "shard-00001.arrow"]


def describe(folder, **changes):
    """Write the manifest that the files of a folder deserve, but for some changes."""
    shards = [caches._describe(folder / name, 20) for name in NAMES]
    manifest = {"format": FORMAT, "fingerprint": "abc", "origin": {}, "dim": 8, "shards": shards}
    write_manifest(folder, manifest | changes)


def fill(folder):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_shard(folder / name, rng.normal(size=(20, 8)).astype(np.float16))
    describe(folder)


def hostile_columns(rows):
    """Columns that are no embeddings."""
    values = pa.array(rows.reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays
    yield "float64", lists(values.cast(pa.float64()), 8)
    yield "integers", lists(pa.array(np.arange(160)), 8)
    yield "texts", pa.array(["a"] * 20)
    yield "lists", pa.array([[1.0] * 8] * 20)
    yield "missing rows", pa.array([None, *rows.astype(np.float32).tolist()[1:]], pa.list_(pa.float32(), 8))
    yield "missing numbers", pa.array([[None] * 8] * 20, pa.list_(pa.float32(), 8))
    yield "no width", pa.nulls(20, pa.list_(pa.float16(), 0))
    yield "other width", lists(values, 4)


def write_column(path, column, name="embedding"):
    with path.open("wb") as file, pa.ipc.new_stream(file, pa.schema([(name, column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=[name]))


def change_manifest(manifest):
    """Changes of one entry each."""
    for name in manifest:
        yield f"{name} missing", {key: value for key, value in manifest.items() if key != name}
        for value in VALUES:
            yield f"{name} = {value}", {**manifest, name: value}
    for name in manifest["shards"][0]:
        files = ["../elsewhere.arrow", "/etc/passwd", "shard-00001.arrow", "shard-00009.arrow", MANIFEST, "", "a\0b"]
        for value in [*VALUES, *(files if name == "file" else [])]:
            first = {**manifest["shards"][0], name: value}
            yield f"shards[0].{name} = {value!a}", {**manifest, "shards": [first, *manifest["shards"][1:]]}


def damage_cache(folder, rng, count):
    """Damage a whole cache in place, in every way; yields what was done, and whether the manifest agrees with it."""
    for name in [*NAMES, MANIFEST]:
        raw = (folder / name).read_bytes()
        for label, damaged in damage_bytes(rng, raw, count):
            if name != MANIFEST or damaged.split() != raw.split():
                (folder / name).write_bytes(damaged)
                yield f"{name} {label}", False
                if name != MANIFEST:
                    describe(folder)
                    yield f"{name} {label}, as described", True
        fill(folder)
    rows = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float16)
    for label, arrays in damage_arrays(rng, {"rows": rows}, count):
        changed = arrays.get("rows")
        if changed is not None and changed.ndim == 2:
            write_shard(folder / NAMES[0], changed)
            describe(folder)
            yield label, True
            fill(folder)
    for label, column in hostile_columns(rows):
        write_column(folder / NAMES[0], column)
        describe(folder)
        yield label, True
        fill(folder)
    write_column(folder / NAMES[0], pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 8), "other")
    describe(folder)
    yield "another column", True
    fill(folder)
    first, second = ((folder / name).read_bytes() for name in NAMES)
    (folder / NAMES[0]).write_bytes(second)
    (folder / NAMES[1]).write_bytes(first)
    yield "two shards exchanged", False
    fill(folder)
    for label, manifest in change_manifest(read_manifest(folder)):
        write_manifest(folder, manifest)
        yield label, True
    fill(folder)
    for text in ("[" * 100_000, "{}", "null", '{"format": "csr_hf.embeddings/1"}', "\udcff"):
        (folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
        yield f"manifest {text[:20]!a}", False


def read(folder, **how):
    """All that is read of a cache; None where it is refused."""
    try:
        found = EmbeddingCache.load(folder, **how)
        assert found.shape == (sum(map(len, found.arrays)), found.dim)
        found[np.array([len(found) - 1, 0])]
        return found.to_numpy().tobytes(), found.checksum
    except ValueError as error:
        assert "\n" not in str(error) and str(folder) in str(error) and len(str(error)) < 600, error
        return None


def try_all(folder, count):
    folder, rng = Path(folder), np.random.default_rng(0)
    fill(folder)
    expected, tried, refused = read(folder, verify=True), 0, 0
    for label, agrees in damage_cache(folder, rng, count):
        sys.stdout.write(f"{label}\n")
        sys.stdout.flush()
        found, tried = read(folder), tried + 1
        refused += found is None
        # What no manifest agrees with is found by checksums, if not at once.
        assert agrees or read(folder, verify=True) in (None, expected), label
    sys.stdout.write(json.dumps({"tried": tried, "refused": refused}))


def check(tmp_path, count):
    path = str(tmp_path / "cache")
    found = run_alone(f"from tests.embedding.test_damaged_cache import try_all; try_all({path!r}, {count})")
    assert found["tried"] > 150 and found["refused"] > found["tried"] / 2


def test_damaged_caches_are_refused_or_read(tmp_path):
    check(tmp_path, 6)


@pytest.mark.slow
def test_many_damaged_caches_are_refused_or_read(tmp_path):
    check(tmp_path, 400)


def test_older_manifests_have_no_checksum(tmp_path):
    fill(tmp_path / "cache")
    expected = EmbeddingCache.load(tmp_path / "cache")
    (tmp_path / "cache" / MANIFEST).write_text(json.dumps(read_manifest(tmp_path / "cache")))
    assert EmbeddingCache.load(tmp_path / "cache", verify=True).checksum == expected.checksum
