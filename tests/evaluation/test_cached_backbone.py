import numpy as np

from csr_hf.evaluation.cached_backbone import CachedBackbone


def test_inputs_are_embedded_once_and_found_by_others(backbone, tmp_path):
    texts = ["a text", "first", "a"]
    cached = CachedBackbone(backbone, tmp_path)
    rows = cached.embed(texts, None)
    np.testing.assert_allclose(rows, backbone.embed(texts), atol=1e-5)
    assert cached.embed(texts, None) is rows
    cached.forget()
    assert np.array_equal(cached.embed(texts, None), rows)
    assert cached.embedded == 3
    other = CachedBackbone(backbone, tmp_path)
    assert np.array_equal(other.embed(texts, None), rows)
    assert other.embedded == 0


def test_no_inputs_give_no_rows(backbone, tmp_path):
    assert CachedBackbone(backbone, tmp_path).embed([], None).shape == (0, 384)


def test_texts_with_zero_characters_are_not_taken_for_others(backbone, tmp_path):
    """Joined by such a character both lists are the same: one row came back for two texts."""
    cached = CachedBackbone(backbone, tmp_path)
    assert cached.embed(["a\0b"], None).shape == (1, 384)
    assert cached.embed(["a", "b"], None).shape == (2, 384)
    assert cached.embed(["", "a\0b"], None).shape == (2, 384)
    rows = cached.embed(["\0a", "b"], None)
    np.testing.assert_allclose(rows[1], backbone.embed(["b"])[0], atol=1e-5)
    assert cached.embedded == 7
