"""Folders of indexes: whole or not at all, nothing outside of them, nothing of others removed, no document lost."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from csr_hf.search import manifest as manifests
from csr_hf.search import storage
from csr_hf.search.manifest import LOCK, MANIFEST, PENDING, checksum_of
from csr_hf.search.storage import StoredSegment, load_folder, new_name, save_folder
from tests.helpers.scripts import ROOT

SETTINGS = {"k": 4, "similarity": "cosine"}


def make_segment(n=20, *, seed=0, alive=None, documents=False):
    rng = np.random.default_rng(seed)
    arrays = {
        "rows": rng.integers(256, size=(n, 7), dtype=np.uint8),
        "norms": rng.random(n, np.float32),
        "order": rng.permutation(n).astype(np.int32),
        "ids": np.arange(n, dtype=np.int64) + 1000 * seed,
        "nothing": np.empty((n, 0), np.float16),
    }
    table = pa.table({"text": [f"text {at}" for at in range(n)], "year": list(range(n))}) if documents else None
    return StoredSegment(new_name(), arrays, alive, {"first_id": 3}, table)


def save(folder, segments, seen=None, **options):
    save_folder(folder, lambda: segments, SETTINGS, seen, **options)


def assert_same(found, expected):
    assert [each.name for each in found] == [each.name for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.arrays.keys() == other.arrays.keys()
        for name, array in other.arrays.items():
            np.testing.assert_array_equal(one.arrays[name], array)
            assert one.arrays[name].dtype == array.dtype and not one.arrays[name].flags.writeable
        np.testing.assert_array_equal(one.alive, other.alive)
        assert one.details == other.details
        assert (one.documents is None) == (other.documents is None)
        assert one.documents is None or one.documents.equals(other.documents)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


@pytest.fixture
def saved(tmp_path):
    save(tmp_path / "index", [make_segment(documents=True, alive=np.arange(20) % 3 > 0), make_segment(5, seed=1)])
    return tmp_path / "index"


def rewrite(folder, change):
    """Change the manifest as somebody does who knows how its checksum is made."""
    content = json.loads((folder / MANIFEST).read_text())
    content.pop("checksum")
    change(content)
    content["checksum"] = checksum_of(content)
    (folder / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path, mmap):
    segments = [make_segment(documents=True, alive=np.arange(20) % 3 > 0), make_segment(0), make_segment(9, seed=2)]
    save(tmp_path / "a" / "index", segments)
    found, settings = load_folder(tmp_path / "a" / "index", mmap=mmap, verify=True, documents=True)
    assert settings == SETTINGS
    assert_same(found, segments)
    bare, _ = load_folder(tmp_path / "a" / "index", mmap=mmap)
    assert_same(bare, [each._replace(documents=None) for each in segments])


def test_files_are_those_of_safetensors_and_arrow(saved):
    (path,) = [
        path for path in saved.glob("*.safetensors") if load_file(path).get("rows", np.empty(0)).shape == (20, 7)
    ]
    arrays = load_file(path)
    ((first, _), _) = load_folder(saved)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(arrays[name], array)
    with pa.memory_map(str(next(saved.glob("*.arrow")))) as file:
        assert pa.ipc.open_file(file).read_all()["year"].to_pylist() == list(range(20))


def test_saving_again_writes_what_is_new_and_removes_what_is_gone(tmp_path):
    folder, seen = tmp_path / "index", {}
    first, second = make_segment(documents=True), make_segment(5, seed=1)
    save(folder, [first], seen)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if first.name in path.name}
    marked = first._replace(alive=np.arange(20) > 3)
    save(folder, [marked, second], seen)
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == written
    assert len(list(folder.glob("*.alive-*"))) == 1 and f"{second.name}.safetensors" in names(folder)
    save(folder, [marked, second], seen)
    save(folder, [first._replace(alive=np.arange(20) > 4), second], seen)
    assert len(list(folder.glob("*.alive-*"))) == 1
    save(folder, [second], seen)
    assert names(folder) == [f"{second.name}.safetensors", MANIFEST]
    assert_same(load_folder(folder)[0], [second])


def test_a_map_outlives_the_files(saved):
    found, _ = load_folder(saved)
    before = found[0].arrays["rows"].copy()
    save(saved, [], overwrite=True)
    np.testing.assert_array_equal(found[0].arrays["rows"], before)


def test_two_writers_lose_nothing(saved):
    one, two = {}, {}
    first, _ = load_folder(saved, documents=True, seen=one)
    second, _ = load_folder(saved, documents=True, seen=two)
    more = make_segment(4, seed=5)
    save(saved, [*first, more], one)
    with pytest.raises(ValueError, match="saved by another process since"):
        save(saved, second, two)
    with pytest.raises(ValueError, match="not loaded from"):
        save(saved, second)
    assert_same(load_folder(saved, documents=True)[0], [*first, more])
    save(saved, first, one)
    save(saved, second, two, overwrite=True)
    with pytest.raises(ValueError, match="saved by another process since"):
        save(saved, [*first, more], {**one, saved.resolve(): "another"})


def _write(folder, number, count):
    """Save segments one by one as another process does: load, add, save, again where it was refused."""
    for round_ in range(count):
        while True:
            seen = {}
            segments, _ = load_folder(folder, mmap=False, documents=True, seen=seen)
            try:
                save(folder, [*segments, make_segment(2, seed=number * 100 + round_)], seen)
                break
            except ValueError as error:
                assert "another process" in str(error)


def test_every_acknowledged_save_of_several_processes_stands(tmp_path):
    save(tmp_path / "index", [make_segment(3)])
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path / "index", number, 6)) for number in (1, 2)]
    for worker in workers:
        worker.start()
    loads = 0
    while any(worker.is_alive() for worker in workers):
        load_folder(tmp_path / "index", verify=True, mmap=False)
        loads += 1
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    ids = np.concatenate([each.arrays["ids"] for each in load_folder(tmp_path / "index")[0]])
    expected = {1000 * (number * 100 + round_) for number in (1, 2) for round_ in range(6)}
    assert loads and expected <= set(ids.tolist())


def test_what_a_save_left_that_was_killed_before_it_tidied_up_is_removed_by_the_next(tmp_path, monkeypatch):
    folder, seen = tmp_path / "index", {}
    save(folder, [make_segment(3, documents=True), make_segment(4, seed=5)], seen)
    with monkeypatch.context() as killed:
        killed.setattr(storage, "_remove_unnamed", lambda *_: None)
        save(folder, [make_segment(5, seed=6)], seen)
    (folder / "notes.txt").write_text("mine")
    left = set(names(folder))
    save(folder, [make_segment(6, seed=7)], seen)
    named = set(manifests.files_of(json.loads((folder / MANIFEST).read_text())))
    assert set(names(folder)) == {*named, MANIFEST, "notes.txt"} and len(left) > 4


_KILLED = """
import sys
from pathlib import Path
from tests.search.test_storage import load_folder, make_segment, save

folder, acknowledged = Path(sys.argv[1]), open(sys.argv[2], "a")
seed, seen = int(sys.argv[3]) * 1000, {}
segments = load_folder(folder, mmap=False, documents=True, seen=seen)[0] if folder.exists() else []
print("ready", flush=True)
while True:
    seed += 1
    segments = [*segments[-6:], make_segment(300, seed=seed, documents=True)] if seed % 4 else [*segments[-1:]]
    save(folder, segments, seen)
    acknowledged.write(f"{segments[-1].name}\\n")
    acknowledged.flush()
"""


def kill_saves(tmp_path, kills):
    """Kill a process that saves without end, at random moments; after each kill the index must be whole."""
    folder, said, rng = tmp_path / "index", tmp_path / "said", random.Random(0)
    save(folder, [make_segment(300, documents=True)])
    for number in range(1, kills + 1):
        call = [sys.executable, "-c", _KILLED, str(folder), str(said), str(number)]
        with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 0.15)
            process.send_signal(signal.SIGKILL)
        found, _ = load_folder(folder, mmap=False, verify=True, documents=True)
        lines = said.read_text().split("\n")[:-1] if said.exists() else []
        # What is acknowledged stands, or what was saved after it, not yet acknowledged.
        last = {lines[-1]} if lines else set()
        assert last <= {each.name for each in found} or len(found) == 1
    save(folder, found, {folder.resolve(): json.loads((folder / MANIFEST).read_text())["checksum"]})
    named = {name for name in manifests.files_of(json.loads((folder / MANIFEST).read_text()))}
    assert set(names(folder)) == {*named, MANIFEST}


def test_killed_saves_leave_a_whole_index(tmp_path):
    kill_saves(tmp_path, 10)


@pytest.mark.slow
def test_many_killed_saves_leave_a_whole_index(tmp_path):
    kill_saves(tmp_path, 200)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_save_that_fails_leaves_everything_as_it_was(saved, tmp_path, monkeypatch, fresh, at):
    target, seen, calls = tmp_path / "other" if fresh else saved, {}, []
    before = load_folder(saved, documents=True, seen=seen)[0]
    replace = os.replace

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        return replace(*arguments, **options)

    monkeypatch.setattr("os.replace", fail)
    new = [make_segment(seed=7, documents=True, alive=np.arange(20) > 2)]
    try:
        save(target, new, seen)
        assert len(calls) < at
    except OSError as error:
        assert "No space left" in str(error)
        assert names(tmp_path) == ["index"]
        assert_same(load_folder(saved, documents=True)[0], before)
        named = set(manifests.files_of(json.loads((saved / MANIFEST).read_text())))
        assert set(names(saved)) == {*named, MANIFEST}


# Nothing outside of the folder.


def name_outside(part, file):
    def change(content):
        content["segments"][0][part]["file"] = file

    return change


@pytest.mark.parametrize("part", ["arrays", "alive", "documents"])
@pytest.mark.parametrize("file", ["../private.safetensors", "{}/private.safetensors", "x.npy", "", "a" * 16, 7, None])
def test_no_name_leads_outside(saved, part, file):
    private = saved.parent / "private.safetensors"
    private.write_bytes(next(saved.glob("*.safetensors")).read_bytes())
    rewrite(saved, name_outside(part, file.format(saved.parent) if isinstance(file, str) else file))
    content = json.loads((saved / MANIFEST).read_text())
    for act in (
        lambda: load_folder(saved),
        lambda: save(saved, [make_segment()], {saved.resolve(): content["checksum"]}),
    ):
        with pytest.raises(ValueError, match="names a file") as error:
            act()
        assert "\n" not in str(error.value)
    assert private.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["segments"][0].update(name="../docs"), "names a segment '../docs'"),
        (lambda m: m["segments"][0].update(name="/etc"), "names a segment"),
        (lambda m: m["segments"][0].update(name=m["segments"][0]["name"] + "\n"), "names a segment"),
        (lambda m: m["segments"][0].update(more=1), "other keys"),
        (lambda m: m["segments"].append(m["segments"][0]), "names something twice"),
        (lambda m: m["segments"].append(7), "other keys"),
        (lambda m: m["segments"][0]["arrays"].update(bytes=-1), "no size"),
        (lambda m: m["segments"][0]["arrays"].update(bytes=1.5), "no size"),
        (lambda m: m["segments"][0]["arrays"].update(bytes=2**70), "has .* bytes instead of"),
        (lambda m: m["segments"][0]["arrays"].update(checksum=None), "no size and checksum"),
        (lambda m: m["segments"][0].update(arrays=None), "does not describe the arrays"),
        (lambda m: m["segments"][0].update(details=[]), "without details"),
        (lambda m: m.update(segments={}), "no settings and segments"),
        (lambda m: m.update(settings=None), "no settings and segments"),
        (lambda m: m.update(other=1), "other keys"),
        (lambda m: m.update(version=6), "version 6"),
        (lambda m: m.update(format="x"), "another format"),
    ],
)
def test_manifests_that_are_none_are_refused(saved, change, message):
    rewrite(saved, change)
    before = names(saved)
    with pytest.raises(ValueError, match=message) as error:
        load_folder(saved)
    assert "\n" not in str(error.value) and str(saved) in str(error.value)
    with pytest.raises(ValueError, match=r"Choose another|choose another|not replaced|loaded from|has .* bytes"):
        save(saved, [])
    assert names(saved) == before


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{", b"[" * 100_000, b'{"a": NaN}', b"7", b'"' + b"x" * 100]
)
def test_what_is_no_manifest_is_refused(saved, content):
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|another format") as error:
        load_folder(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [MANIFEST, LOCK, "segment", "pending"])
def test_links_are_not_followed(saved, name):
    outside = saved.parent / "outside"
    path = {"segment": next(saved.glob("*.safetensors")), "pending": saved / PENDING}.get(name, saved / name)
    if path.exists():
        outside.write_bytes(path.read_bytes())
        path.unlink()
    else:
        outside.write_text("precious")
    path.symlink_to(outside)
    before = outside.read_bytes()
    if name in (MANIFEST, "segment"):
        with pytest.raises(ValueError, match="is a link"):
            load_folder(saved)
    if name != "segment":
        with pytest.raises(ValueError, match=r"link|no list of"):
            save(saved, [make_segment()], overwrite=True)
    else:
        save(saved, [make_segment()], overwrite=True)
    assert outside.read_bytes() == before


def test_nothing_waits_for_a_pipe(saved):
    path = next(saved.glob("*.safetensors"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"no plain file|bytes instead of"):
        load_folder(saved)


# Nothing of others.


@pytest.mark.parametrize(
    "files",
    [
        ["thesis.txt"],
        ["documents.npy", "ids.npy"],
        ["a1b2c3d4e5f60718/results.csv"],
        ["a1b2c3d4e5f60718.safetensors"],
        ["a1b2c3d4e5f60718.documents.arrow", ".lock"],
        [".pending.json"],
        [".a1b2c3d4e5f60718.safetensors.1.2.3/x"],
    ],
)
def test_folders_of_others_are_refused_untouched(tmp_path, files):
    for name in files:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="hoose another path"):
            save(tmp_path / "folder", [make_segment()], overwrite=overwrite)
    found = sorted(
        str(path.relative_to(tmp_path / "folder")) for path in (tmp_path / "folder").rglob("*") if path.is_file()
    )
    assert found == sorted(files)


def test_files_beside_an_index_stay(saved):
    others = ["README.md", "weights.npy", "a1b2c3d4e5f60718.safetensors", "a1b2c3d4e5f60718.documents.arrow"]
    for name in others:
        (saved / name).write_text("mine")
    (saved / "a1b2c3d4e5f60719").mkdir()
    save(saved, [make_segment(2)], overwrite=True)
    # A segment of this name, from elsewhere, gets another file.
    save(saved, [make_segment(2)._replace(name="a1b2c3d4e5f60718")], overwrite=True)
    assert all((saved / name).read_text() == "mine" for name in others) and (saved / "a1b2c3d4e5f60719").is_dir()
    assert load_folder(saved)[0][0].name == "a1b2c3d4e5f60718"
    save(saved, [], overwrite=True)
    assert set(names(saved)) == {*others, "a1b2c3d4e5f60719", MANIFEST}


def test_files_paths_and_empty_folders(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="is a file"):
        save(tmp_path / "file", [])
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", [])
    with pytest.raises(FileNotFoundError, match="no index folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="not an index"):
        load_folder(tmp_path / "other")
    with pytest.raises(ValueError, match=r"save it with `SearchIndex\.save`"):
        first = make_segment(documents=True)
        save(tmp_path / "texts", [first])
        save(tmp_path / "texts", [first._replace(documents=None)], overwrite=True)


# What is damaged.


def damaged_copies(raw, rng):
    yield from (raw[:size] for size in np.linspace(0, len(raw) - 1, 5).astype(int))
    yield raw + b"\0"
    for _ in range(40):
        bad = bytearray(raw)
        # Every other byte is one of the header, which says how all others are read.
        bad[rng.integers(len(bad)) if rng.random() < 0.5 else rng.integers(min(400, len(bad)))] = rng.integers(256)
        yield bytes(bad)


@pytest.mark.parametrize("pattern", ["*.safetensors", "*.arrow", MANIFEST])
def test_damaged_files_are_refused_in_one_line_or_hold_other_values(saved, pattern):
    rng = np.random.default_rng(0)
    for path in sorted(saved.glob(pattern)):
        raw = path.read_bytes()
        for bad in damaged_copies(raw, rng):
            path.write_bytes(bad)
            try:
                found, _ = load_folder(saved, documents=True)
                for each in found:
                    if each.documents is not None:
                        each.documents.take([0, 19])
            except ValueError as error:
                assert "\n" not in str(error) and str(saved) in str(error)
            if bad != raw and pattern != MANIFEST:
                with pytest.raises(ValueError, match="damaged"):
                    load_folder(saved, documents=True, verify=True)
        path.write_bytes(raw)


def test_a_missing_file_is_named(saved):
    path = next(saved.glob("*.alive-*"))
    path.unlink()
    with pytest.raises(ValueError, match=f"damaged: {path.name} is missing"):
        load_folder(saved)


def test_what_a_check_says_is_said_of_the_file(saved):
    def check(segment, settings):
        assert settings == SETTINGS
        if len(segment.arrays["ids"]) == 5:
            raise ValueError("order leads outside")

    with pytest.raises(
        ValueError, match=r"\.safetensors contradicts itself or the manifest: order leads outside\. Copy or build"
    ):
        load_folder(saved, check=check)
