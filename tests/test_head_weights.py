"""Fingerprints: one for all float types of the same weights, another for any other weights."""

import copy
import json
import pickle

import pytest
import torch

from csr_hf import CSRConfig, CSRModel
from csr_hf.codes import encode_embeddings, head_fingerprint
from tests.conftest import make_head
from tests.publishing.conftest import change_json

LOSSY = [torch.float16, torch.bfloat16]


@pytest.fixture(params=["tied", "untied", "modalities"])
def head(request):
    model = make_head(
        request.param != "untied", **({"modalities": ["a", "b"]} if request.param == "modalities" else {})
    )
    if request.param == "modalities":
        model.modality_bias.normal_(std=0.1)
    return model


@pytest.mark.parametrize("dtype", [*LOSSY, torch.float64])
def test_conversions_keep_the_fingerprint(head, dtype):
    expected = head_fingerprint(head)
    assert len(expected) == 16
    converted = copy.deepcopy(head).to(dtype)
    assert head_fingerprint(converted) == expected
    assert head_fingerprint(converted.float()) == expected
    assert head_fingerprint(converted.double().half().bfloat16()) == expected
    assert head_fingerprint(torch.nn.ModuleList([converted]).float()[0]) == expected
    assert head_fingerprint(pickle.loads(pickle.dumps(converted))) == expected


def test_a_head_of_double_precision_has_one_fingerprint_in_all_types(head):
    head.double()
    with torch.no_grad():
        head.pre_bias += 1e-12
    expected = head_fingerprint(head)
    assert head_fingerprint(copy.deepcopy(head).float()) == expected
    with torch.no_grad():
        head.pre_bias += 1e-12
    assert head_fingerprint(head) != expected


@pytest.mark.parametrize("dtype", LOSSY)
def test_saving_and_loading_in_another_type_keeps_the_fingerprint(head, dtype, tmp_path, embeddings):
    expected = head_fingerprint(head)
    head.save_pretrained(tmp_path / "wide")
    narrow = CSRModel.from_pretrained(tmp_path / "wide", dtype=dtype)
    assert head_fingerprint(narrow) == expected
    narrow.save_pretrained(tmp_path / "narrow")
    for options in ({}, {"dtype": torch.float32}, {"dtype": torch.float16}):
        loaded = CSRModel.from_pretrained(tmp_path / "narrow", **options)
        assert head_fingerprint(loaded) == expected
        assert encode_embeddings(loaded, embeddings[:3]).head_fingerprint == expected
    loaded.save_pretrained(tmp_path / "again")
    assert head_fingerprint(CSRModel.from_pretrained(tmp_path / "again")) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.encoder.weight.data.mul_(1.01),
        lambda head: head.encoder.weight.data.neg_(),
        lambda head: head.encoder.weight.data.copy_(head.encoder.weight.data.flip(0)),
        lambda head: head.encoder.weight.data.copy_(head.encoder.weight.data.flip(1)),
        lambda head: head.latent_bias.data.__setitem__(3, 0.5),
        lambda head: head.pre_bias.data.copy_(head.pre_bias.data.flip(0)),
        lambda head: setattr(head, "pre_bias", torch.nn.Parameter(head.pre_bias * 2)),
        lambda head: head.load_state_dict(make_head().state_dict() | {"latent_bias": torch.ones(40)}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_changes_change_the_fingerprint(change, dtype):
    head = make_head().to(dtype)
    before = head_fingerprint(head)
    change(head)
    assert head_fingerprint(head) != before


def test_means_of_modalities_count_and_counters_do_not():
    head = make_head(modalities=["a", "b"])
    before = head_fingerprint(head)
    head.stats_last_nonzero += 1
    head.modality_last_nonzero += 1
    assert head_fingerprint(head) == before
    head.modality_bias.data[1, 2] = 1
    assert head_fingerprint(head) != before


@pytest.mark.parametrize("sizes", [(7, 9), (6, 9), (8, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_changes_are_seen_at_every_width(sizes, dtype):
    head = CSRModel(CSRConfig(input_dim=sizes[0], hidden_dim=sizes[1], k=2)).to(dtype)
    before = head_fingerprint(head)
    head.encoder.weight.data[3, 4] += 0.25
    assert head_fingerprint(head) != before


def test_uninitialized_memory_is_no_conversion():
    head = make_head()
    before = head_fingerprint(head)
    for tensor in head.half().to_empty(device="cpu").parameters():
        tensor.data.zero_()
    assert head_fingerprint(head) != before


def test_an_entry_of_a_config_counts_for_its_own_weights_alone(tmp_path):
    head = make_head()
    expected = head_fingerprint(head)
    head.half().save_pretrained(tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())["fingerprints"]
    assert list(recorded.values()) == [expected]
    head.encoder.weight.data.mul_(2)
    head.save_pretrained(tmp_path / "changed")
    assert json.loads((tmp_path / "changed" / "config.json").read_text())["fingerprints"] == {}
    # Somebody else's entry in the config of other weights.
    change_json(tmp_path / "changed" / "config.json", fingerprints=recorded)
    assert head_fingerprint(CSRModel.from_pretrained(tmp_path / "changed")) == head_fingerprint(head) != expected


def test_heads_made_under_inference_mode_have_one(embeddings):
    with torch.inference_mode():
        head = make_head()
        assert head_fingerprint(head) == head_fingerprint(make_head())
    assert head_fingerprint(head) == head_fingerprint(make_head())
    assert encode_embeddings(head, embeddings[:2]).head_fingerprint == head_fingerprint(head)
    assert head_fingerprint(head.half()) == head_fingerprint(make_head())


def test_heads_without_weights_convert(tmp_path):
    with torch.device("meta"):
        empty = CSRModel(CSRConfig(input_dim=12, hidden_dim=40, k=5))
    assert empty.half().encoder.weight.is_meta
