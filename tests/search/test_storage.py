"""Indexes on disk: equal after a round trip, whole or not at all, refused when damaged."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from csr_hf.search import kernels, storage
from csr_hf.search.index import InvertedIndex
from csr_hf.search.params import SearchParams
from csr_hf.sparse_codes import QueryProjections
from tests.search.test_index import random_codes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def codes():
    return random_codes(700, 6, 120, 20, head="fingerprint")


@pytest.fixture
def saved(codes, tmp_path):
    folder = tmp_path / "index"
    InvertedIndex.build(codes, [f"d{i}" for i in range(700)], decoded_norms=np.ones(700)).save(folder)
    return folder


def part(folder):
    """The folder of the only segment."""
    (found,) = [path for path in folder.iterdir() if path.is_dir()]
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(codes, saved, mmap):
    built = InvertedIndex.build(
        codes, [f"d{i}" for i in range(700)], decoded_norms=np.ones(700)
    )  # fmt: skip
    loaded = InvertedIndex.load(saved, mmap=mmap)
    assert repr(loaded) == repr(built)
    assert (loaded.head, loaded.nbytes) == ("fingerprint", built.nbytes)
    projections = QueryProjections(np.random.default_rng(0).normal(size=(9, 120)), np.zeros(9))
    for params in (SearchParams(), SearchParams(rescore="self")):
        expected, result = (each.search(codes[:9], 5, params, projections=projections) for each in (built, loaded))
        for left, right in zip(expected, result, strict=True):
            np.testing.assert_array_equal(left, right)
    ((_, arrays, _, _),) = storage.load_folder(saved, mmap=mmap)[0]
    mapped = [isinstance(array, np.memmap) for array in arrays.values()]
    assert all(mapped) if mmap else not any(mapped)


def test_empty_index_round_trip(codes, tmp_path):
    InvertedIndex.build(codes[:0]).save(tmp_path / "a" / "index")
    assert len(InvertedIndex.load(tmp_path / "a" / "index")) == 0


def test_save_replaces_an_index_that_is_still_open(codes, saved):
    old = InvertedIndex.load(saved)
    before = old.search(codes[:3], 5)
    InvertedIndex.build(codes[:10]).save(saved)
    assert len(InvertedIndex.load(saved)) == 10
    np.testing.assert_array_equal(old.search(codes[:3], 5).ids, before.ids)
    assert names(saved.parent) == ["index"]
    old.save(saved)
    assert len(InvertedIndex.load(saved)) == 700


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("at", ["write", "first rename", "second rename"])
def test_failed_save_leaves_everything_as_it_was(codes, saved, monkeypatch, fresh, at):
    target = saved.parent / "other" if fresh else saved
    calls = []

    def fail_from(number, original):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == number:
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        return call

    if at == "write":
        monkeypatch.setattr(np, "save", fail_from(3, np.save))
    else:
        # The segment's folder, then the manifest.
        monkeypatch.setattr("os.replace", fail_from(1 if at == "first rename" else 2, os.replace))
    with pytest.raises(OSError, match="No space left"):
        InvertedIndex.build(codes[:10]).save(target)
    monkeypatch.undo()
    assert names(saved.parent) == ["index"]
    assert len(names(saved)) == 2
    assert len(InvertedIndex.load(saved)) == 700


def test_save_leaves_foreign_paths_alone(codes, tmp_path):
    index = InvertedIndex.build(codes)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("folder", "file"):
        with pytest.raises(ValueError, match="Choose another path"):
            index.save(tmp_path / name)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"
    assert names(tmp_path) == ["file", "folder"]
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert len(InvertedIndex.load(tmp_path / "empty")) == 700


def test_load_errors(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index folder"):
        InvertedIndex.load(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ValueError, match="not an index"):
        InvertedIndex.load(tmp_path / "foreign")
    (tmp_path / "foreign" / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="another format"):
        InvertedIndex.load(tmp_path / "foreign")
    (tmp_path / "foreign" / "manifest.json").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="damaged"):
        InvertedIndex.load(tmp_path / "foreign")


@pytest.mark.parametrize("name", ["indices", "values", "scale", "starts", "offsets", "postings", "ids"])
def test_truncated_or_missing_file(saved, name):
    path = part(saved) / f"{name}.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"incomplete: .*{name}.npy has"):
        InvertedIndex.load(saved)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for options in ({"mmap": False}, {"verify": True}):
        with pytest.raises(ValueError, match=f"damaged: .*{name}.npy does not match its checksum"):
            InvertedIndex.load(saved, **options)
    path.unlink()
    with pytest.raises(ValueError, match=f"incomplete: .*{name}.npy is missing"):
        InvertedIndex.load(saved)


def test_manifest_is_checked(saved, tmp_path):
    manifest = json.loads((saved / "manifest.json").read_text())
    newer = {**manifest, "version": 99}
    (saved / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="version 99"):
        InvertedIndex.load(saved)
    manifest["settings"]["dim"] = 5
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="checksum"):
        InvertedIndex.load(saved)


def test_swapped_file_of_another_index(codes, saved, tmp_path):
    InvertedIndex.build(codes[:10]).save(tmp_path / "small")
    shutil.copy(part(tmp_path / "small") / "postings.npy", part(saved) / "postings.npy")
    with pytest.raises(ValueError, match="incomplete"):
        InvertedIndex.load(saved)


def test_content_that_contradicts_itself_is_found(saved):
    """Kernels do not check bounds, so what is verified is more than the checksum; a map is trusted."""
    path = part(saved) / "indices.npy"
    array = np.load(path)
    array[3, 2] = 60_000
    np.save(path, array)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest.pop("checksum")
    manifest["segments"][0]["files"]["indices"]["checksum"] = storage._file_checksum(path)
    manifest["checksum"] = storage._checksum(manifest)
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="contradict each other"):
        InvertedIndex.load(saved, mmap=False)


def test_saving_again_writes_what_is_new_and_removes_what_is_gone(codes, saved):
    index = InvertedIndex.load(saved)
    first = part(saved)
    written = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    index.add(codes[:3], ["x", "y", "z"], decoded_norms=np.ones(3))
    index.delete(["d5", "y"])
    index.save(saved)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len([path for path in saved.iterdir() if path.is_dir()]) == 2
    loaded = InvertedIndex.load(saved, mmap=False)
    assert len(loaded) == 701 and "d5" not in loaded and "z" in loaded
    np.testing.assert_array_equal(loaded.search(codes[:4], 9).ids, index.search(codes[:4], 9).ids)
    index.delete(["d6"])
    index.save(saved)
    assert len(list(first.glob("alive-*.npy"))) == 1
    index.compact()
    index.save(saved)
    assert part(saved) != first
    assert len(InvertedIndex.load(saved)) == 700


def test_saves_of_several_threads_and_loads_between_them(codes, tmp_path):
    """Whoever saves last has its index there, whole; loading never meets a half-written one."""
    index = InvertedIndex.build(codes[:50])
    index.save(tmp_path / "index")
    errors, done = [], threading.Event()

    def save(at):
        for round_ in range(8):
            index.add(codes[50 + 10 * at : 52 + 10 * at])
            if round_ % 3 == at % 3:
                index.compact()
            index.save(tmp_path / "index")

    def load():
        while not done.is_set():
            try:
                assert len(InvertedIndex.load(tmp_path / "index", mmap=False)) >= 50
            except (ValueError, OSError, AssertionError) as error:
                errors.append(error)

    loader = threading.Thread(target=load)
    loader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    done.set()
    loader.join()
    assert errors == []
    loaded = InvertedIndex.load(tmp_path / "index", mmap=False)
    assert (len(loaded), loaded.segments) == (50 + 4 * 8 * 2, index.segments)


def test_files_of_others_stay(codes, saved):
    (saved / "README.md").write_text("mine")
    (saved / ".git").mkdir()
    index = InvertedIndex.load(saved)
    index.compact()
    index.delete(["d1"])
    index.save(saved)
    InvertedIndex.build(codes[:5]).save(saved)
    assert (saved / "README.md").read_text() == "mine" and (saved / ".git").is_dir()
    assert len(InvertedIndex.load(saved)) == 5


@pytest.mark.parametrize("what", ["file", "folder"])
def test_saving_mends_what_is_missing(saved, what):
    index = InvertedIndex.load(saved, mmap=False)
    if what == "file":
        (part(saved) / "postings.npy").unlink()
    else:
        shutil.rmtree(part(saved))
    index.save(saved)
    assert len(InvertedIndex.load(saved, mmap=False)) == 700


def test_what_a_killed_first_save_left_is_no_obstacle(codes, saved, tmp_path):
    shutil.copytree(part(saved), tmp_path / "new" / part(saved).name)
    (tmp_path / "new" / ".0123456789abcdef.12.34.56").mkdir()
    InvertedIndex.build(codes[:5]).save(tmp_path / "new")
    assert len(InvertedIndex.load(tmp_path / "new")) == 5
    assert len(names(tmp_path / "new")) == 2


def test_an_index_of_an_older_version_is_replaced(codes, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    np.save(folder / "indices.npy", np.zeros(3))
    (folder / "manifest.json").write_text(json.dumps({"format": storage.FORMAT, "version": 1}))
    with pytest.raises(ValueError, match="version 1; this library reads 6"):
        InvertedIndex.load(folder)
    InvertedIndex.build(codes[:5]).save(folder)
    assert len(InvertedIndex.load(folder)) == 5
    assert len(names(folder)) == 2


def test_an_index_can_be_pickled(codes):
    index = pickle.loads(pickle.dumps(InvertedIndex.build(codes)))
    np.testing.assert_array_equal(index.search(codes[:3], 4).ids, InvertedIndex.build(codes).search(codes[:3], 4).ids)
    index.delete([3])
    assert len(index) == 699


def test_a_pickled_index_runs_what_is_compiled(codes):
    index = InvertedIndex.build(codes)
    index.search(codes[:3], 4)
    before = len(kernels.search_query.signatures)
    pickle.loads(pickle.dumps(index)).search(codes[:3], 4)
    assert len(kernels.search_query.signatures) == before


def test_ids_of_other_types_stay_in_memory(codes, tmp_path):
    index = InvertedIndex.build(codes[:2], [("a", 1), ("a", 2)])
    with pytest.raises(ValueError, match="cannot be saved"):
        index.save(tmp_path / "index")
    assert names(tmp_path) == []


KILLED = """
import os, sys
import numpy as np
from csr_hf.search.index import InvertedIndex
from csr_hf.search import storage
from tests.search.test_index import random_codes
index = InvertedIndex.load(sys.argv[1])
codes = random_codes(50, 6, 120, 99, head="fingerprint")
index.add(codes, [f"n{i}" for i in range(50)], decoded_norms=np.ones(50))
index.delete(["d0"])
saves, save = [], np.save
def killing(*arguments, **options):
    saves.append(1)
    if len(saves) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    save(*arguments, **options)
np.save = killing
replace = os.replace
def replacing(*arguments):
    if int(sys.argv[2]) == 0 and str(arguments[1]).endswith("manifest.json"):
        os.kill(os.getpid(), 9)
    replace(*arguments)
os.replace = replacing
index.save(sys.argv[1])
"""


@pytest.mark.parametrize("at", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_save_leaves_the_last_good_index(codes, saved, at):
    """Killed at the n-th array that is written, or just before the manifest is exchanged."""
    before = InvertedIndex.load(saved).search(codes[:5], 7)
    files = len(list(saved.rglob("*")))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(saved), str(at)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(saved.rglob("*"))) > files
    index = InvertedIndex.load(saved, mmap=False)
    assert len(index) == 700
    for left, right in zip(before, index.search(codes[:5], 7), strict=True):
        np.testing.assert_array_equal(left, right)
    index.save(saved)
    assert len(names(saved)) == 2
    assert names(saved.parent) == ["index"]
