from functools import partial

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSREncoder, CSRModel, SparseCodes, load_backbone
from csr_hf.codes import decoded_norms, encode_embeddings, head_fingerprint, project_queries
from tests.conftest import MINILM, make_head

TASKS = {"query": "ask: ", "document": ""}
"""Tasks and what is put before their texts."""


@pytest.fixture(scope="module")
def encoder(backbone):
    torch.manual_seed(0)
    return CSREncoder(backbone, CSRModel(CSRConfig(hidden_dim=256, k=8, base_model_name_or_path=MINILM)))


def test_codes_are_the_head_applied_to_the_embeddings(encoder):
    texts = ["a first text", "and a second, longer one", ""]
    values, indices = encoder.head.encode(torch.from_numpy(encoder.backbone.embed(texts)))
    codes = encoder.encode(texts)
    assert np.array_equal(codes.indices, indices.numpy())
    assert np.array_equal(codes.values, values.detach().numpy())
    assert (codes.dim, codes.head_fingerprint) == (256, encoder.fingerprint)


def test_odd_inputs_behave(encoder):
    assert len(encoder.encode([])) == 0
    assert len(encoder.encode("one string")) == 1
    assert np.array_equal(encoder.encode("one string").values, encoder.encode(["one string"]).values)
    assert (encoder.encode("").values > 0).any()
    very_long = encoder.encode("word " * 20_000)
    assert np.isfinite(very_long.values).all()


@pytest.mark.parametrize("k", [1, 3, 20, 256])
def test_k_is_chosen_at_call_time(encoder, k):
    assert encoder.encode(["a text"], max_active_dims=k).k == k


# The last would need more memory than there is, were it made before it is refused.
@pytest.mark.parametrize("k", [-1, 0, 257, 10**15, True, 2.0, "8"])
@pytest.mark.parametrize("texts", [["a text"], []])
def test_k_out_of_range_is_refused(encoder, texts, k):
    message = rf"`max_active_dims` \({k!r}\) must be an integer from 1 to `hidden_dim` \(256\)"
    with pytest.raises(ValueError, match=message):
        encoder.encode(texts, max_active_dims=k)


@pytest.mark.parametrize("refine", [True, "pursuit"])
def test_refined_codes_are_the_heads_own(encoder, refine):
    texts = ["a first text", "and a second, longer one"]
    values, indices = encoder.head.encode(torch.from_numpy(encoder.embed(texts)), 12, refine=refine)
    codes = encoder.encode(texts, max_active_dims=12, refine=refine)
    assert np.array_equal(codes.indices, indices.numpy())
    assert np.array_equal(codes.values, values.detach().numpy())
    assert len(encoder.encode([], refine=refine)) == 0


def test_queries_and_documents_use_their_prompts(encoder, monkeypatch):
    monkeypatch.setitem(encoder.backbone.model.prompts, "query", "ask: ")
    monkeypatch.setitem(encoder.backbone.model.prompts, "document", "say: ")
    for method, plain, prompt in (
        (encoder.encode_query, {"project": False}, "ask: "),
        (encoder.encode_document, {"refine": False}, "say: "),
    ):
        expected = encoder.encode([prompt + "x"])
        np.testing.assert_allclose(method(["x"], **plain).values, expected.values, atol=1e-5)
        assert not np.array_equal(method(["x"]).values, expected.values)


def test_queries_and_documents_take_their_towers(tiny_folder):
    router = load_backbone(str(tiny_folder("router")), device="cpu", prompts={"query": "ask: "})
    encoder, texts = CSREncoder(router, make_head(input_dim=32)), ["a cat", "two dogs"]
    dense = {task: router.model.encode(texts, prompt=prompt, task=task) for task, prompt in TASKS.items()}
    ways = {"query": partial(encoder.encode_query, project=False)}
    ways["document"] = partial(encoder.encode_document, refine=False)
    for task, encode in ways.items():
        np.testing.assert_allclose(encoder.embed(texts, task=task), dense[task], atol=1e-6)
        expected = encode_embeddings(encoder.head, dense[task])
        assert np.array_equal(encode(texts).indices, expected.indices)
        np.testing.assert_allclose(encode(texts).values, expected.values, atol=1e-6)
        own = encode(texts, prompt="so: ").values
        np.testing.assert_allclose(own, encoder.encode(texts, task=task, prompt="so: ").values, atol=1e-6)
        assert np.abs(own - expected.values).max() > 1e-3


def test_settings_of_the_backbone_travel_with_the_head(tiny_folder, tmp_path, caplog):
    folder, settings = str(tiny_folder("e5")), {"prompts": {"document": "passage"}, "truncate_dim": 12}
    backbone = load_backbone(folder, device="cpu", **settings)
    head = make_head(base_model_name_or_path=folder)
    first = CSREncoder(backbone, head)
    assert head.config.base_model_settings == settings
    head.save_pretrained(tmp_path)
    again = CSREncoder.from_pretrained(tmp_path, device="cpu")
    assert again.backbone.settings.to_record() == settings
    assert again.head.config.base_model_settings == settings
    values = [encoder.encode_document(["a cat"]).values for encoder in (first, again)]
    np.testing.assert_allclose(*values, atol=1e-6)
    with caplog.at_level("WARNING", logger="csr_hf"):
        other = CSREncoder.from_pretrained(tmp_path, device="cpu", prompts={"document": ""})
    assert "the head was trained with the backbone's settings" in caplog.text
    np.testing.assert_allclose(other.embed(["a cat"], task="document"), backbone.embed(["a cat"]), atol=1e-6)
    assert other.head.config.base_model_settings == settings


def test_remote_code_is_the_callers_word(tiny_folder, tmp_path):
    make_head(input_dim=32, base_model_name_or_path=str(tiny_folder("remote_code"))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        CSREncoder.from_pretrained(tmp_path, device="cpu")
    encoder = CSREncoder.from_pretrained(tmp_path, device="cpu", trust_remote_code=True)
    assert len(encoder.encode_query(["a cat"])) == 1
    assert "trust_remote_code" not in encoder.head.config.to_json_string()


def test_other_width_is_refused(backbone):
    with pytest.raises(ValueError, match=r"gives 384 dimensions, the head takes `input_dim` 12"):
        CSREncoder(backbone, make_head())


def test_encoder_loads_head_and_the_backbone_it_names(encoder, tmp_path):
    encoder.head.save_pretrained(tmp_path)
    loaded = CSREncoder.from_pretrained(tmp_path, device="cpu")
    assert loaded.fingerprint == encoder.fingerprint
    first, second = loaded.encode(["a text"]), encoder.encode(["a text"])
    # Weights that lie elsewhere in memory may be summed in another order.
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_allclose(first.values, second.values, rtol=1e-5)
    make_head().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no backbone"):
        CSREncoder.from_pretrained(tmp_path)


def test_a_folder_has_no_revisions(encoder, tmp_path):
    encoder.head.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`revision` \('v2'\) is of a repository on the Hub, but .* is a folder"):
        CSREncoder.from_pretrained(tmp_path, revision="v2")


def test_cached_embeddings_in_any_batch_size_give_the_same_codes(embeddings):
    head = make_head()
    whole = encode_embeddings(head, embeddings, batch_size=10_000)
    parts = encode_embeddings(head, embeddings, batch_size=7)
    assert np.array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.values, parts.values, atol=1e-6)
    assert encode_embeddings(head, embeddings.astype(np.float16), dtype="float16").values.dtype == np.float16
    assert len(encode_embeddings(head, embeddings[:0])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_named(embeddings, bad):
    embeddings[5, 3] = bad
    with pytest.raises(ValueError, match=r"embeddings\[5\] holds NaN or infinity"):
        encode_embeddings(make_head(), embeddings, batch_size=4)


def test_values_that_overflow_are_named(embeddings):
    embeddings[7:] *= 1e6
    with pytest.raises(ValueError, match=r"the code of embeddings\[7\] overflows float16"):
        encode_embeddings(make_head(), embeddings, dtype="float16", batch_size=4)
    assert np.isfinite(encode_embeddings(make_head(), embeddings).values).all()
    with pytest.raises(ValueError, match=r"the code of embeddings\[7\] overflows float32 or the head's type"):
        encode_embeddings(make_head().half(), embeddings)


def test_other_width_of_cached_embeddings_is_refused(embeddings):
    with pytest.raises(ValueError, match="embeddings are 11 wide"):
        encode_embeddings(make_head(), embeddings[:, :11])


@pytest.mark.parametrize("tied", [True, False])
def test_norms_and_projections_score_like_decoding(embeddings, tied):
    head = make_head(tied)
    codes = encode_embeddings(head, embeddings[:40], refine=True, dtype="float16")
    decoded = head.decode(
        torch.from_numpy(codes.values.astype(np.float32)), torch.from_numpy(codes.indices.astype(np.int64))
    ).detach()
    norms = decoded_norms(head, codes, batch_size=7)
    np.testing.assert_allclose(norms, decoded.norm(dim=1), rtol=1e-5)
    queries = embeddings[40:50]
    latents, offset, fingerprint = project_queries(head, queries)
    assert fingerprint == codes.head_fingerprint
    rows = codes.to_scipy().toarray()
    scores = (latents @ rows.T + offset[:, None]) / norms
    expected = torch.from_numpy(queries) @ torch.nn.functional.normalize(decoded, dim=1).T
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_largest_projections_as_codes(embeddings):
    head = make_head()
    projections = project_queries(head, embeddings[:20])
    codes = projections.codes(30)
    assert (codes.dim, codes.k, codes.head_fingerprint) == (head.config.hidden_dim, 30, head_fingerprint(head))
    expected = np.maximum(-np.sort(-projections.latents, axis=1)[:, :30], 0)
    np.testing.assert_array_equal(codes.values, expected)
    assert (expected == 0).any()
    taken = np.take_along_axis(projections.latents, codes.indices.astype(int), 1)
    np.testing.assert_array_equal(codes.values, np.maximum(taken, 0))
    for k in (0, head.config.hidden_dim + 1):
        with pytest.raises(ValueError, match=rf"`k` \({k}\) must be between 1"):
            projections.codes(k)


def test_fingerprint_tells_heads_apart():
    head, same = make_head(), make_head()
    assert head_fingerprint(head) == head_fingerprint(same)
    same.stats_last_nonzero += 1  # A counter of the training, not a weight.
    assert head_fingerprint(head) == head_fingerprint(same)
    with torch.no_grad():
        same.pre_bias[0] += 1
    assert head_fingerprint(head) != head_fingerprint(same)


def test_half_precision_heads_encode(embeddings):
    head = make_head().half()
    codes = encode_embeddings(head, embeddings)
    assert isinstance(codes, SparseCodes)
    expected = encode_embeddings(head.float(), embeddings)
    np.testing.assert_allclose(codes.values, expected.values, atol=2e-3)
