"""Codes of heads with several modalities."""

import warnings

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel
from csr_hf.codes import encode_embeddings, subtract_modality_mean
from tests.helpers.clip import picture


def test_codes_are_those_of_centered_embeddings(modal_encoder):
    inputs = [picture(0), "a text", picture(1)]
    codes, dense = modal_encoder.encode(inputs), modal_encoder.embed(inputs)
    bias = modal_encoder.head.modality_bias.numpy()
    for row, modality in enumerate((0, 1, 0)):
        expected = encode_embeddings(modal_encoder.head, dense[row : row + 1] - bias[modality])
        np.testing.assert_array_equal(codes.indices[row], expected.indices[0])
        np.testing.assert_allclose(codes.values[row], expected.values[0], atol=1e-6)
    batch = np.stack([np.asarray(picture(number)) for number in range(3)])
    np.testing.assert_array_equal(modal_encoder.encode(batch).indices[[0, 1]], codes.indices[[0, 2]])
    assert len(modal_encoder.encode(np.array(["a text", "another"]))) == 2
    assert len(modal_encoder.encode([])) == 0
    assert len(modal_encoder.encode(picture(0))) == len(modal_encoder.encode_query("a text")) == 1


def test_memory_maps_need_no_warning(modal_encoder, tmp_path):
    head, rows = modal_encoder.head, np.random.default_rng(0).standard_normal((5000, 24)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    expected = encode_embeddings(head, rows)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shifted, codes = subtract_modality_mean(head, mapped, "text"), encode_embeddings(head, mapped)
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(shifted, rows - head.modality_bias[1].numpy())
    np.testing.assert_array_equal(codes.values, expected.values)
    with pytest.raises(ValueError, match="`modality`"):
        subtract_modality_mean(head, rows[:0], "audio")


def test_head_of_two_modalities_wants_to_know_which(modal_encoder, tmp_path):
    rows = torch.zeros(1, 24)
    with pytest.raises(ValueError, match=r"`modality` \('audio'\) is not one of this head's: image, text"):
        modal_encoder.head.subtract_modality_mean(rows, "audio")
    assert torch.equal(modal_encoder.head.subtract_modality_mean(rows, "text"), -modal_encoder.head.modality_bias[1:])
    modal_encoder.head.save_pretrained(tmp_path)
    again = CSRModel.from_pretrained(tmp_path)
    assert again.config.modalities == ["image", "text"]
    assert torch.equal(again.modality_bias, modal_encoder.head.modality_bias)
    before = modal_encoder.fingerprint
    modal_encoder.head.modality_bias += 0.1
    assert modal_encoder.fingerprint != before
    with pytest.raises(ValueError, match="must be two or more different names"):
        CSRConfig(modalities=["text", "text"])
