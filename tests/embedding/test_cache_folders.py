import os
import time

import pytest

from csr_hf.embedding.cache import embed_dataset
from csr_hf.embedding.cache_folders import find_caches
from csr_hf.embedding.loading import load_backbone


@pytest.fixture
def caches(tiny_folder, tmp_path):
    """A finished cache, an unfinished one ten days old, and folders of others."""
    backbone = load_backbone(str(tiny_folder("router")), device="cpu")
    finished = embed_dataset(["a text", "another"], backbone, tmp_path).folder
    unfinished = tmp_path / ("0" * 24)
    unfinished.mkdir()
    shard = next(finished.glob("shard-*.arrow"))
    (unfinished / shard.name).write_bytes(shard.read_bytes())
    ago = time.time() - 10 * 86_400
    os.utime(unfinished / shard.name, (ago, ago))
    (tmp_path / ("1" * 24)).mkdir()
    (tmp_path / ("2" * 24)).mkdir()
    (tmp_path / ("2" * 24) / "manifest.json").write_text('{"format": "another"}')
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "shard-00000.arrow").write_text("mine")
    (tmp_path / ("3" * 24)).symlink_to(tmp_path / "notes")
    return tmp_path, finished, unfinished


def test_our_caches_are_found_and_no_others(caches):
    folder, finished, unfinished = caches
    first, second = find_caches(folder)
    assert (first.folder, first.finished, first.rows) == (finished, True, 2)
    assert first.backbone is not None
    assert first.size == sum(path.stat().st_size for path in finished.iterdir())
    assert (second.folder, second.finished, second.rows, second.backbone) == (unfinished, False, None, None)
    assert second.days == pytest.approx(10, abs=0.1)


def test_files_of_others_stay(caches):
    folder, finished, unfinished = caches
    (unfinished / "notes.txt").write_text("mine")
    removed = {cache.folder: cache.remove() for cache in find_caches(folder)}
    assert removed == {finished: True, unfinished: False}
    assert not finished.exists()
    assert [path.name for path in unfinished.iterdir()] == ["notes.txt"]
    assert (folder / "notes" / "shard-00000.arrow").read_text() == "mine"
    assert find_caches(folder) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"nothing is no folder, so no embeddings are in it\. Name their folder with --cache-dir"
    ):
        find_caches(tmp_path / "nothing")
