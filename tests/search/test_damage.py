"""Damaged and hostile copies of an index: refused in one line or searched without a crash; `verify` finds them all."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from csr_hf.search.index import InvertedIndex
from csr_hf.search.manifest import MANIFEST, checksum_of
from csr_hf.search.params import SearchParams
from csr_hf.search.segment_files import parse_arrays, write_arrays
from tests.helpers.damage import VALUES, damage_arrays, damage_bytes, run_alone

WAYS = [SearchParams(threads=1), SearchParams(nprobe=None, threads=1), SearchParams(exact=True, threads=1)]


def rewrite(folder, path, arrays):
    """Put other arrays into a file, and make the manifest agree, as whoever made the folder can."""
    path.unlink()
    described = write_arrays(path, arrays)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum")
    for segment in manifest["segments"]:
        for part in ("arrays", "alive"):
            if segment[part] and segment[part]["file"] == path.name:
                segment[part].update(described)
    manifest["checksum"] = checksum_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def ask(folder, queries, **how):
    """Answers in every way, or None where the folder is refused."""
    try:
        index = InvertedIndex.load(folder, documents=True, **how)
        return [index.search(queries, 5, params).ids.tolist() for params in WAYS]
    except ValueError as error:
        assert "\n" not in str(error), error
        assert str(folder) in str(error), error
        return None


def try_all(folder, count):
    """Damage an index in every way, search each copy, and print what became of them."""
    good, bad, rng = Path(folder), Path(folder).with_name("bad"), np.random.default_rng(0)
    queries = np.load(good.with_name("queries.npy"))
    expected, tried, refused, other = ask(good, queries), 0, 0, []
    assert expected is not None

    def judge(label, *, agrees=False):
        nonlocal tried, refused
        sys.stdout.write(f"{label}\n")
        sys.stdout.flush()
        found, tried = ask(bad, queries), tried + 1
        refused += found is None
        if found is not None and found != expected:
            other.append(label)
        # A manifest that agrees hides what a checksum would show.
        assert agrees or ask(bad, queries, verify=True) is None, label

    def copy():
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)

    for name in sorted(path.name for path in good.iterdir() if path.stat().st_size):
        raw = (good / name).read_bytes()
        for label, damaged in damage_bytes(rng, raw, count):
            # Spaces between the values of a manifest say nothing.
            if name != MANIFEST or damaged.split() != raw.split():
                copy()
                (bad / name).write_bytes(damaged)
                judge(f"{name} {label}")
        if name.endswith(".safetensors"):
            arrays = parse_arrays(np.frombuffer(raw, np.uint8))
            for label, changed in damage_arrays(rng, arrays, count):
                copy()
                rewrite(bad, bad / name, changed)
                judge(f"{name} {label}", agrees=True)
    sys.stdout.write(json.dumps({"tried": tried, "refused": refused, "other": other}))


def change_manifest(manifest):
    """Changes of one setting or detail each, as functions that change a manifest."""
    for name in manifest["settings"]:
        yield lambda found, name=name: found["settings"].pop(name)
        for value in VALUES:
            yield lambda found, name=name, value=value: found["settings"].update({name: value})
    for number, segment in enumerate(manifest["segments"]):
        for name in segment["details"]:
            yield lambda found, number=number, name=name: found["segments"][number]["details"].pop(name)
            for value in VALUES:
                yield lambda found, number=number, name=name, value=value: found["segments"][number]["details"].update(
                    {name: value}
                )


def try_manifests(folder):
    """Search copies whose manifest says something else of the same files."""
    good, bad = Path(folder), Path(folder).with_name("bad")
    queries, content = np.load(good.with_name("queries.npy")), json.loads((good / MANIFEST).read_text())
    shutil.copytree(good, bad)
    tried = refused = 0
    for change in change_manifest(content):
        found = json.loads((good / MANIFEST).read_text())
        found.pop("checksum")
        change(found)
        found["checksum"] = checksum_of(found)
        (bad / MANIFEST).write_text(json.dumps(found))
        tried, refused = tried + 1, refused + (ask(bad, queries) is None)
    sys.stdout.write(json.dumps({"tried": tried, "refused": refused}))


def damage(tmp_path, count):
    from tests.search.test_index import make_coder, make_rows

    rows = make_rows(700)
    index = InvertedIndex.build(rows[:600], make_coder(), [f"d{at}" for at in range(600)])
    index.delete(["d3", "d77"])
    index.save(tmp_path / "good")
    np.save(tmp_path / "queries.npy", rows[600:604])
    act = f"try_all({str(tmp_path / 'good')!r}, {count})" if count else f"try_manifests({str(tmp_path / 'good')!r})"
    call = f"from tests.search.test_damage import try_all, try_manifests; {act}"
    return run_alone(call)


def test_damaged_indexes_are_refused_or_searched(tmp_path):
    found = damage(tmp_path, 4)
    assert found["tried"] > 150 and found["refused"] > found["tried"] / 2


def test_manifests_that_say_something_else_are_refused_or_harmless(tmp_path):
    found = damage(tmp_path, 0)
    assert found["tried"] > 150 and found["refused"] > found["tried"] / 2


@pytest.mark.slow
def test_many_damaged_indexes_are_refused_or_searched(tmp_path):
    found = damage(tmp_path, 20)
    assert found["tried"] > 400 and found["refused"] > found["tried"] / 2
