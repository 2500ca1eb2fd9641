"""Training on whitened embeddings, and the head for embeddings as they are that comes of it."""

import json
import shutil

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel, RunRecipe, Source
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.runs.embedding import embed
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.training import train
from csr_hf.training.rows import TrainingRows
from csr_hf.training.whitening import fit_whitening

DIM = 24


def make_embeddings(scale=1.0):
    """Embeddings with a mean of three times their spread, which vary in few directions."""
    rng = np.random.default_rng(0)
    spectrum = 0.6 ** np.arange(DIM)
    mean = rng.standard_normal(DIM)
    mean *= 3 * np.linalg.norm(spectrum) / np.linalg.norm(mean)
    return (scale * (rng.standard_normal((1500, DIM)) * spectrum + mean)).astype(np.float32)


def make_source(scale=1.0):
    return Source.from_arrays({"embedding": make_embeddings(scale)})


@pytest.mark.parametrize("strength", [0.0, 0.9, 1.0])
def test_whitened_embeddings_have_no_mean_and_more_even_variances(strength):
    source = make_source()
    whitening = fit_whitening(TrainingRows([source]), strength)
    (whitened,) = whitening.apply([source])
    found = np.asarray(whitened.vectors["embedding"])
    assert np.allclose(found.mean(0), 0, atol=1e-4)
    before, after = (np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1] for rows in (make_embeddings(), found))
    mean = before.mean()
    # The same directions, each scaled by what is shrunk towards the mean variance.
    expected = before / np.maximum(strength * before / mean + 1 - strength, 1e-6)
    assert np.allclose(after[:5], np.sort(expected)[::-1][:5], rtol=1e-3)
    assert np.allclose(found[[3, 7]], whitened.vectors["embedding"][np.array([3, 7])], atol=1e-5)
    assert len(whitened) == len(source)
    assert np.array_equal(source.vectors["embedding"], make_embeddings())


@pytest.mark.parametrize("tied", [True, False])
def test_a_folded_head_gives_the_codes_of_whitened_embeddings(tied):
    source = make_source(100.0)
    whitening = fit_whitening(TrainingRows([source]), 0.9)
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(input_dim=DIM, hidden_dim=96, k=4, tied_decoder=tied))
    with torch.no_grad():
        head.pre_bias.normal_()
        head.latent_bias.normal_()
    head.stats_last_nonzero[:5] = 7
    folded = whitening.fold(head)
    (whitened,) = whitening.apply([source])
    values, indices = head.encode(whitened.vectors["embedding"][:50])
    own_values, own_indices = folded.encode(source.vectors["embedding"][:50])
    assert np.array_equal(indices, own_indices)
    assert np.allclose(values, own_values, rtol=1e-3, atol=1e-2)
    decoded = (folded.decode(own_values, own_indices) - whitening.mean) @ whitening.matrix
    assert np.allclose(decoded, head.decode(values, indices), rtol=1e-3, atol=0.05)
    assert not folded.config.tied_decoder and head.config.tied_decoder is tied
    assert torch.equal(folded.stats_last_nonzero, head.stats_last_nonzero)


def test_embeddings_that_are_equal_or_flat_leave_finite_maps():
    flat = make_embeddings()
    flat[:, 3:] = 1
    for rows in (flat, np.full((50, DIM), 2, np.float32)):
        found = fit_whitening(TrainingRows([Source.from_arrays({"embedding": rows})]), 1.0)
        assert all(np.isfinite(each).all() for each in found)


def test_a_strength_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`strength` \(1.5\) must be between 0 and 1"):
        fit_whitening(TrainingRows([make_source()]), 1.5)
    with pytest.raises(ValueError, match="whitening"):
        RunRecipe.from_dict({"model": {"whitening": 1.5}})


def make_recipe(folder, **keys):
    np.save(folder / "rows.npy", make_embeddings())
    model = {"hidden_dim": 96, "k": 4, "dead_threshold": 1500, **keys.pop("model", {})}
    training = {"max_steps": 60, "per_device_train_batch_size": 64, "save_steps": 20, **keys.pop("training", {})}
    return RunRecipe.from_dict(
        {
            "output_dir": str(folder / keys.pop("name", "run")),
            "data": {"source": str(folder / "rows.npy"), "held_out": 0.1},
            "model": model,
            "training": training,
        }
    )


def test_a_run_has_fewer_dead_latents_and_a_head_for_embeddings_as_they_are(tmp_path):
    found = {}
    for name, whitening in (("plain", None), ("whitened", 0.9)):
        recipe = make_recipe(tmp_path, name=name, model={"whitening": whitening})
        head = train(recipe, embed(recipe))
        figures = RunRecipe.recorded(RunFolder.of(recipe.output_dir).recipe, "results")
        loaded = load_head(open_repository(recipe.output_dir))
        assert loaded.fingerprint == head.fingerprint
        held_out = embed(recipe).sources[0].held_out
        for rows, prefix in ((~held_out, ""), (held_out, "held_out_")):
            embeddings = make_embeddings()[rows]
            left = np.square(loaded.decode(*loaded.encode(embeddings)) - embeddings).sum()
            explained = 1 - left / np.square(embeddings - embeddings.mean(0)).sum()
            assert figures[f"{prefix}explained_variance"] == pytest.approx(explained, abs=1e-3)
        assert figures["mean_to_spread"] == pytest.approx(3, rel=0.05)
        found[name] = figures["dead_fraction"]
    assert found["whitened"] < 0.02 < 0.3 < found["plain"]


def test_a_whitened_run_goes_on_with_the_same_bits(tmp_path):
    whole = make_recipe(tmp_path, name="whole", model={"whitening": 0.9})
    cut = make_recipe(tmp_path, name="cut", model={"whitening": 0.9})
    expected = train(whole, embed(whole)).fingerprint
    train(cut, embed(cut))
    folder = RunFolder.of(cut.output_dir)
    # As if the last steps and the head had never been.
    newest = sorted(folder.checkpoints.glob("step_*"))[-1]
    state = folder.path / "state.json"
    shutil.rmtree(newest)
    shutil.rmtree(folder.model)
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "head": None}))
    assert train(cut, embed(cut)).fingerprint == expected


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("model", "init", "data"), ("training", "refits", 1), ("training", "push_to_hub", True)],
)
def test_what_would_be_done_before_the_head_is_finished_is_refused(tmp_path, section, key, value):
    keys = {"model": {"whitening": 0.9}, "training": {}}
    keys[section] = {**keys[section], key: value}
    recipe = make_recipe(tmp_path, **keys)
    with pytest.raises(ValueError, match=rf"`{section}.{key}` \({value}\) does not go with `model.whitening` \(0.9\)"):
        train(recipe, embed(recipe))
    assert not RunFolder.of(recipe.output_dir).checkpoints.exists()
