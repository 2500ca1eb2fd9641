import numpy as np
import pytest
from datasets import Dataset

from csr_hf import load_backbone
from csr_hf.data.run_data import RunData
from csr_hf.data.sources import Source
from tests.conftest import make_head


def source(name, *roles, n=10, dim=4, seed=0, every=5):
    """Random embeddings by role, every fifth row held out."""
    rng = np.random.default_rng(seed)
    vectors = {role: rng.standard_normal((n, dim)).astype(np.float32) for role in roles}
    return Source(name, roles, np.arange(n) % every == 0, vectors=vectors)


def test_documents_of_all_sources_and_held_out_pairs_first():
    single, pairs = source("a", "text"), source("b", "anchor", "positive", seed=1)
    data = RunData(None, [single, pairs])
    assert (data.name, data.dim, data.modalities) == ("a and 1 more", 4, None)
    text, positive, anchor = single.vectors["text"], pairs.vectors["positive"], pairs.vectors["anchor"]
    assert np.array_equal(data.documents(), np.concatenate([text, positive]))
    assert np.array_equal(data.held_out_documents(), np.concatenate([positive[::5], text[::5]]))
    assert np.array_equal(data.held_out_queries(), anchor[::5])
    assert len(data.train_embeddings()) == 3 * 8
    assert RunData(None, [single]).held_out_queries() is None


def test_a_head_of_several_modalities_takes_embeddings_less_their_means():
    images = source("a", "image", "text")
    head = make_head(input_dim=4, modalities=["image", "text"])
    head.modality_bias.normal_()
    image_mean, text_mean = head.modality_bias.numpy()
    data = RunData(None, [images])
    assert data.modalities == ["image", "text"]
    np.testing.assert_allclose(data.documents(head), images.vectors["image"] - image_mean, rtol=1e-6)
    np.testing.assert_allclose(data.held_out_queries(head), images.vectors["text"][::5] - text_mean, rtol=1e-6)
    kept = np.arange(10) % 5 != 0
    np.testing.assert_allclose(data.modality_mean("text"), images.vectors["text"][kept].mean(0), rtol=1e-5)


def test_sources_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match=r"differ in width: \[3, 4\]"):
        RunData(None, [source("a", "embedding"), source("b", "embedding", dim=3)]).check()
    pictures = Source("b", ("image",), np.zeros(3, bool))
    with pytest.raises(ValueError, match="images beside precomputed embeddings"):
        RunData(None, [source("a", "embedding"), pictures]).check()


def test_precomputed_embeddings_of_an_unknown_modality_are_refused():
    both, single = make_head(input_dim=4, modalities=["image", "text"]), make_head(input_dim=4)
    data = RunData(None, [source("rows.npy", "embedding")])
    with pytest.raises(
        ValueError, match=r"`data.source` rows.npy holds precomputed.*Give the images or texts themselves"
    ):
        data.check_head(both)
    data.check_head(single)
    RunData(None, [source("a", "image", "text"), source("b", "text")]).check_head(both)


def test_every_role_is_embedded_for_its_task_with_its_prompt(tiny_folder, tmp_path):
    pairs = {"anchor": ["a cat", "two dogs"], "positive": ["it runs", "they sit"], "negative": ["a", "b"]}
    towers = Source("pairs", tuple(pairs), np.zeros(2, bool), rows=Dataset.from_dict(pairs))
    texts = Source("texts", ("text",), np.zeros(2, bool), rows=Dataset.from_dict({"text": ["sun", "moon"]}))
    prompts = {"query": "ask: ", "document": "tell: ", "negative": "not: "}
    router = load_backbone(str(tiny_folder("router")), device="cpu", prompts=prompts)
    RunData(router, [towers, texts]).embed(tmp_path, 32)
    expected = {"anchor": ("ask: ", "query"), "positive": ("tell: ", "document"), "negative": ("not: ", "document")}
    for role, (prompt, task) in expected.items():
        rows = router.model.encode(pairs[role], prompt=prompt, task=task)
        np.testing.assert_allclose(towers.vectors[role].to_numpy(), rows, atol=2e-3)
    rows = router.model.encode(["sun", "moon"], prompt="tell: ", task="document")
    np.testing.assert_allclose(texts.vectors["text"].to_numpy(), rows, atol=2e-3)
    assert np.abs(rows - router.model.encode(["sun", "moon"], prompt="tell: ", task="query")).max() > 0.1


def test_blocks_and_samples_of_many_rows(monkeypatch):
    single, pairs = source("a", "text", n=23), source("b", "anchor", "positive", seed=1)
    pairs.vectors = {role: vectors.astype(np.float16) for role, vectors in pairs.vectors.items()}
    data = RunData(None, [single, pairs])
    everything, documents, mean = data.train_embeddings(), data.documents(), data.modality_mean("text")
    assert RunData(None, [pairs]).documents().dtype == np.float16 and documents.dtype == np.float32
    np.testing.assert_allclose(mean, everything.mean(0, dtype=np.float64), rtol=1e-6)
    monkeypatch.setattr("csr_hf.data.run_data._BLOCK_ROWS", 4)
    assert np.array_equal(data.documents(), documents)
    assert np.array_equal(data.train_embeddings(), everything)
    assert np.array_equal(data.modality_mean("text"), mean)
    sample, kept = data.train_embeddings(most=12), np.flatnonzero(~single.held_out)
    assert len(sample) == 6 + 3 + 3
    assert np.array_equal(sample[:6], single.vectors["text"][kept[::3]])
