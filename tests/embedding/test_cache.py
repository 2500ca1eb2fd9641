import numpy as np
import pytest

from csr_hf import load_backbone
from csr_hf.embedding import cache as module
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache import EmbeddingCache, embed_dataset, fingerprint_texts
from csr_hf.embedding.cache_manifest import read_manifest, write_manifest

TEXTS = [f"{'word ' * (n % 5)}number {n}" for n in range(21)]


class Interrupting(Backbone):
    """A backbone that stops like a killed process after some calls, or returns a bad row."""

    def __init__(self, backbone, calls=None, bad=None):
        super().__init__(backbone.model, backbone.name, backbone.revision, backbone.source)
        self.calls, self.bad, self.embedded = calls, bad, 0

    def embed(self, texts, *options, **more):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls = self.calls and self.calls - 1
        self.embedded += len(texts)
        rows = super().embed(texts, *options, **more)
        if self.bad is not None and TEXTS[13] in texts:
            rows[list(texts).index(TEXTS[13])] = self.bad
        return rows


@pytest.fixture(scope="module")
def backbone(tiny_folder):
    return load_backbone(str(tiny_folder("bert")), device="cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "_SHARD_ROWS", 8)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 4)


def embed(backbone, folder, texts=TEXTS, **options):
    return embed_dataset(texts, backbone, folder, **options)


def test_cache_holds_what_the_backbone_gives(backbone, tmp_path):
    cache = embed(backbone, tmp_path)
    assert (len(cache), cache.dim, len(cache.arrays)) == (21, backbone.dim, 3)
    assert not cache.reused
    expected = backbone.embed(TEXTS)
    np.testing.assert_allclose(cache.to_numpy(), expected, atol=1e-3)
    assert cache.to_numpy().dtype == np.float16
    rows = np.arange(21) % 2 == 0
    mixed = np.array([20, 3, 3, 8, 0, 15, 7, 20])
    for chosen in (rows, np.flatnonzero(rows)[::-1], slice(5, 18, 3), mixed, np.arange(0)):
        assert np.array_equal(cache[chosen], cache.to_numpy()[chosen])
    for beyond in (-1, 21):
        with pytest.raises(IndexError, match=rf"`rows` go from .*{beyond}.* there are rows 0 to 20"):
            cache[np.array([3, beyond])]
    exact = embed(backbone, tmp_path, dtype="float32")
    np.testing.assert_allclose(exact.to_numpy(), expected, atol=1e-5)
    assert exact.folder != cache.folder


def test_datasets_reads_it_as_fixed_size_lists(backbone, tmp_path):
    from datasets import Dataset, List, concatenate_datasets

    cache = embed(backbone, tmp_path)
    dataset = concatenate_datasets([Dataset.from_file(str(path)) for path in sorted(cache.folder.glob("*.arrow"))])
    assert isinstance(dataset.features["embedding"], List)
    assert dataset.features["embedding"].length == backbone.dim
    assert np.array_equal(np.array(dataset["embedding"][:], np.float16), cache.to_numpy())


def test_second_call_reuses_and_embeds_nothing(backbone, tmp_path):
    first = embed(backbone, tmp_path)
    again = embed(Interrupting(backbone, calls=0), tmp_path)
    assert again.reused
    assert np.array_equal(again.to_numpy(), first.to_numpy())


def test_changed_input_never_reuses(backbone, tmp_path):
    folders = [
        embed(backbone, tmp_path).folder,
        embed(backbone, tmp_path, TEXTS[::-1]).folder,
        embed(backbone, tmp_path, TEXTS[:-1]).folder,
        embed(backbone, tmp_path, dtype="float32").folder,
        embed(Backbone(backbone.model, backbone.name, "another-revision"), tmp_path).folder,
    ]
    length = backbone.model.max_seq_length
    backbone.model.max_seq_length = 16
    try:
        folders.append(embed(Backbone(backbone.model, backbone.name), tmp_path).folder)
    finally:
        backbone.model.max_seq_length = length
    backbone.model.prompts["query"] = "ask: "
    try:
        folders.append(embed(Backbone(backbone.model, backbone.name), tmp_path, prompt_name="query").folder)
    finally:
        backbone.model.prompts["query"] = ""
    assert len(set(folders)) == len(folders)


def test_a_task_counts_where_it_changes_embeddings(tiny_folder, tmp_path):
    router = load_backbone(str(tiny_folder("router")), device="cpu")
    asked, told, neither = (embed(router, tmp_path, TEXTS[:3], task=task) for task in ("query", "document", None))
    assert len({asked.folder, told.folder}) == 2
    for cache, task in ((asked, "query"), (told, "document"), (neither, None)):
        np.testing.assert_allclose(cache.to_numpy(), router.embed(TEXTS[:3], task=task), atol=2e-3)
    bert = load_backbone(str(tiny_folder("bert")), device="cpu", prompts={"query": "ask: "})
    folders = [embed(bert, tmp_path, TEXTS[:3], task=task).folder for task in ("query", "document", None)]
    # The prompt of queries alone tells them from documents.
    assert folders[0] != folders[1] == folders[2]


def test_every_setting_counts(tiny_folder, tmp_path):
    changes = [{}, {"truncate_dim": 8}, {"dtype": "bfloat16"}, {"max_seq_length": 4}]
    changes += [{"processor_kwargs": {"padding_side": "left"}}, {"prompts": {"document": "tell: "}}]
    folders = set()
    for settings in changes:
        changed = load_backbone(str(tiny_folder("bert")), device="cpu", **settings)
        folders.add(embed(changed, tmp_path, TEXTS[:2], task="document").folder)
    assert len(folders) == len(changes)


def test_interrupted_run_goes_on_where_it_stopped(backbone, tmp_path):
    whole = embed(backbone, tmp_path / "whole").to_numpy()
    with pytest.raises(KeyboardInterrupt):
        embed(Interrupting(backbone, calls=3), tmp_path / "cut")
    (folder,) = (tmp_path / "cut").iterdir()
    names = ["piece-shard-00001-00000.arrow", "shard-00000.arrow"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with pytest.raises(ValueError, match="unfinished"):
        EmbeddingCache.load(folder)
    resumed = Interrupting(backbone)
    cache = embed(resumed, tmp_path / "cut")
    assert resumed.embedded == 21 - 12
    assert np.array_equal(cache.to_numpy(), whole)
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"manifest.json", "shard"}


def test_damaged_pieces_are_embedded_again(backbone, tmp_path, caplog):
    whole = embed(backbone, tmp_path / "whole").to_numpy()
    with pytest.raises(KeyboardInterrupt):
        embed(Interrupting(backbone, calls=3), tmp_path / "cut")
    ((piece,),) = [list(folder.glob("piece-*")) for folder in (tmp_path / "cut").iterdir()]
    piece.write_bytes(piece.read_bytes()[:40])
    caplog.set_level("WARNING")
    assert np.array_equal(embed(backbone, tmp_path / "cut").to_numpy(), whole)
    assert f"embedded again: embedding cache file {piece}" in caplog.text


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN or infinite"), (np.inf, "infinite"), (1e5, "too large")])
def test_bad_embedding_names_the_text(backbone, tmp_path, value, reason):
    with pytest.raises(ValueError, match=f"text 13 .*{reason}"):
        embed(Interrupting(backbone, bad=value), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "manifest.json").exists()
    # What was good stays, and the run goes on once the cause is gone.
    assert len(embed(backbone, tmp_path)) == 21


def test_large_values_fit_float32(backbone, tmp_path):
    cache = embed(Interrupting(backbone, bad=1e5), tmp_path, dtype="float32")
    assert (cache.to_numpy()[13] == 1e5).all()


def test_nothing_to_embed(backbone, tmp_path):
    with pytest.raises(ValueError, match="`inputs` is empty"):
        embed(backbone, tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def damage_truncate(folder):
    path = folder / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(folder):
    path = folder / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)


def damage_remove(folder):
    (folder / "shard-00002.arrow").unlink()


def damage_manifest(folder):
    (folder / "manifest.json").write_text("{")


def foreign_manifest(folder):
    (folder / "manifest.json").write_text('{"format": "something else"}')


def foreign_fingerprint(folder):
    manifest = read_manifest(folder) | {"fingerprint": "of another cache"}
    write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, "shard-00001.arrow is missing or truncated"),
        (damage_flip, r"shard-00001.arrow is corrupt \(checksum\)"),
        (damage_remove, "shard-00002.arrow is missing"),
        (damage_manifest, "manifest.json is corrupt"),
        (foreign_manifest, "does not describe an embedding cache"),
        (foreign_fingerprint, "holds the embeddings of something else"),
    ],
)
def test_damaged_or_foreign_cache_is_refused(backbone, tmp_path, damage, reason):
    cache = embed(backbone, tmp_path)
    damage(cache.folder)
    with pytest.raises(ValueError, match=f"{reason}.*Delete"):
        embed(backbone, tmp_path)


def test_folder_that_is_no_cache(tmp_path):
    with pytest.raises(ValueError, match="not an embedding cache"):
        EmbeddingCache.load(tmp_path)


def test_fingerprint_depends_on_texts_their_borders_and_order():
    fingerprints = [
        fingerprint_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab"], ["ab\ud800"])
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprint_texts(iter(["ab", "c"])) == fingerprints[0]
