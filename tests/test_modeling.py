import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from transformers import AutoConfig, AutoModel

from csr_hf import CSRConfig, CSRModel
from tests.conftest import make_head

# What travels inside each model repository.
CODE = {"modeling_csr.py", "configuration_csr.py", "head_weights.py", "least_squares.py"}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def head(request):
    return make_head(request.param)


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_encode_follows_its_formula(head, inputs):
    weight, pre_bias, bias = (
        t.detach().double().numpy() for t in (head.encoder.weight, head.pre_bias, head.latent_bias)
    )
    values, indices = head.encode(inputs, 7)
    for row, x in enumerate(inputs.double().numpy()):
        latents = weight @ (x - pre_bias) + bias
        best = np.argsort(-latents)[:7]
        assert indices[row].tolist() == best.tolist()
        np.testing.assert_allclose(values[row].detach(), np.maximum(latents[best], 0), atol=1e-5)


def test_values_descend_and_relu_cuts(head, inputs):
    values, indices = head.encode(inputs, head.config.hidden_dim)
    assert (values.diff(dim=-1) <= 0).all()
    assert (values[:, -1] == 0).all()
    assert (indices.sort(dim=-1).values == torch.arange(40)).all()


def test_smaller_k_is_a_prefix(head, inputs):
    large, small = head.encode(inputs, 20), head.encode(inputs, 3)
    assert equal([tensor[:, :3] for tensor in large], small)


def test_decode_is_the_dictionary_times_the_latents(head, inputs):
    values, indices = head.encode(inputs)
    latents = torch.zeros(50, 40).scatter(1, indices, values)
    matrix = head.encoder.weight if head.config.tied_decoder else head.decoder.weight.t()
    torch.testing.assert_close(head.decode(values, indices), latents @ matrix + head.pre_bias)


def test_tied_head_has_no_decoder_parameter():
    names = {"encoder.weight", "pre_bias", "latent_bias", "stats_last_nonzero"}
    assert set(make_head(True).state_dict()) == names
    assert set(make_head(False).state_dict()) == names | {"decoder.weight"}


def test_untied_decoder_starts_as_the_transposed_encoder():
    model = CSRModel(CSRConfig(input_dim=4, hidden_dim=8, k=2, tied_decoder=False))
    assert torch.equal(model.decoder.weight, model.encoder.weight.t())


def test_projection_scores_codes_without_decoding(head, inputs):
    values, indices = head.encode(inputs)
    latents, offset = head.project(inputs)
    scores = (latents.gather(1, indices) * values).sum(-1) + offset
    torch.testing.assert_close(scores, (inputs * head.decode(values, indices)).sum(-1))


@pytest.mark.parametrize("k", [1, 6, 12])
@pytest.mark.parametrize("scales", ["equal", "of three magnitudes"])
def test_refined_values_solve_least_squares_on_the_support(head, inputs, k, scales):
    if scales != "equal":
        with torch.no_grad():
            head.encoder.weight *= 10 ** -torch.linspace(0, 3, 40)[torch.randperm(40), None]
            head.encoder.weight[7] = 0  # A latent that lost its atom takes part without harm.
    plain_values, plain_indices = head.encode(inputs, k)
    values, indices = head.encode(inputs, k, refine=True)
    atoms = head.dictionary.detach().double().numpy()
    for row in range(len(inputs)):
        active = plain_indices[row][plain_values[row] > 0]
        target = inputs[row].double().numpy() - head.pre_bias.detach().double().numpy()
        _, error = nnls(atoms[active.numpy()].T, target)
        mine = values[row].detach().double().numpy() @ atoms[indices[row].numpy()] - target
        assert np.linalg.norm(mine) == pytest.approx(error, rel=1e-3, abs=1e-3)
        assert set(indices[row][values[row] > 0].tolist()) <= set(active.tolist())
    assert torch.equal(indices.sort(dim=-1).values, plain_indices.sort(dim=-1).values)
    assert (values.diff(dim=-1) <= 0).all()
    assert (values >= 0).all()


@pytest.mark.parametrize("k", [1, 6, 20, 40])
def test_refined_codes_reconstruct_better(head, inputs, k):
    errors = [
        (head.decode(*head.encode(inputs, k, refine=refine)) - inputs).pow(2).sum(-1) for refine in (False, True)
    ]
    assert (errors[1] <= errors[0] + 1e-5).all()
    assert errors[1].mean() < errors[0].mean()


@pytest.mark.parametrize("refine", [True, "pursuit"])
@pytest.mark.parametrize("bound", [("modeling_csr._WORK_FLOATS", 500), ("least_squares._GRAM_LATENTS", 0)])
def test_bounded_memory_changes_no_code(head, inputs, monkeypatch, refine, bound):
    expected = head.encode(inputs, 6, refine=refine)
    monkeypatch.setattr(f"csr_hf.{bound[0]}", bound[1])
    values, indices = head.encode(inputs, 6, refine=refine)
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(values, expected[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("refine", [True, "pursuit"])
def test_refinement_of_half_precision_is_computed_in_float32(inputs, refine):
    half = make_head().half()
    wide = copy.deepcopy(half).float()
    values, indices = half.encode(inputs.half(), 6, refine=refine)
    assert values.dtype == torch.float16
    found = wide.decode(values.float(), indices)
    expected = wide.decode(*wide.encode(inputs.half().float(), 6, refine=refine))
    errors = [(decoded - inputs).norm(dim=1).mean().item() for decoded in (found, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=5e-3)


@pytest.mark.parametrize("refine", [False, True, "pursuit"])
def test_no_rows_give_no_codes(head, refine):
    values, indices = head.encode(torch.zeros(0, 12), 3, refine=refine)
    assert values.shape == indices.shape == (0, 3)
    assert head.decode(values, indices).shape == (0, 12)


def test_pursuit_follows_its_definition(head, inputs):
    values, indices = head.encode(inputs, 6, refine="pursuit")
    atoms = head.dictionary.detach().double().numpy()
    norms = np.linalg.norm(atoms, axis=1)
    for row, x in enumerate(inputs.double().numpy()):
        target = x - head.pre_bias.detach().double().numpy()
        support, left = [], target
        for place in range(6):
            gain = atoms @ left / norms
            gain[support] = -np.inf
            atom = int(gain.argmax())
            support.append(atom)
            left = left - gain[atom] * atoms[atom] / norms[atom]
            if place == 3:
                left = target - nnls(atoms[support].T, target)[0] @ atoms[support]
        fitted, _ = nnls(atoms[support].T, target)
        assert sorted(indices[row].tolist()) == sorted(support)
        order = [support.index(latent) for latent in indices[row].tolist()]
        np.testing.assert_allclose(values[row].detach(), fitted[order], atol=1e-3)


@pytest.mark.parametrize("k", [1, 7, 20, 40])
def test_pursuit_reconstructs_best(head, inputs, k):
    errors = []
    for refine in (True, "pursuit"):
        values, indices = head.encode(inputs, k, refine=refine)
        assert values.shape == indices.shape == (50, k)
        assert (values.diff(dim=-1) <= 0).all()
        assert (values >= 0).all()
        assert all(len(set(row.tolist())) == k for row in indices)
        errors.append((head.decode(values, indices) - inputs).pow(2).sum(-1).mean().item())
    assert errors[1] <= errors[0] * (1.01 if k == 40 else 1)


def test_unknown_refinement_is_refused(head, inputs):
    with pytest.raises(ValueError, match=r"`refine` \('best'\) is unknown. Choose False, True or 'pursuit'"):
        head.encode(inputs, refine="best")


def test_forward_measures_the_reconstruction_and_gives_gradients(head, inputs):
    output = head(embeddings=inputs, k=4)
    values, indices = head.encode(inputs, 4)
    assert torch.equal(output.code_values, values)
    assert torch.equal(output.code_indices, indices)
    expected = ((output.reconstruction - inputs) ** 2).sum(1).mean()
    torch.testing.assert_close(output.loss, expected)
    assert head(inputs, return_dict=False)[0].shape == ()
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_and_loaded_heads_have_equal_bits(head, inputs, tmp_path, dtype):
    model = head.to(dtype)
    model.stats_last_nonzero += torch.arange(40)
    model.save_pretrained(tmp_path)
    loaded = CSRModel.from_pretrained(tmp_path)
    assert loaded.dtype == dtype
    assert model.state_dict().keys() == loaded.state_dict().keys()
    assert equal(model.state_dict().values(), loaded.state_dict().values())
    assert equal(model.encode(inputs.to(dtype)), loaded.encode(inputs.to(dtype)))
    assert CSRModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_loading_can_change_the_type(head, inputs, tmp_path):
    head.save_pretrained(tmp_path)
    loaded = CSRModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert loaded.dtype == torch.float16
    assert loaded.stats_last_nonzero.dtype == torch.long
    assert torch.equal(loaded.encoder.weight, head.encoder.weight.half())


def test_tied_head_can_go_on_untied(inputs, tmp_path):
    head = make_head(True)
    head.save_pretrained(tmp_path)
    untied = CSRModel.from_pretrained(tmp_path, tied_decoder=False)
    assert torch.equal(untied.decoder.weight, head.encoder.weight.t())
    assert equal(untied(inputs, return_dict=False)[1:], head(inputs, return_dict=False)[1:])


def test_construction_on_the_meta_device(head, tmp_path):
    with torch.device("meta"):
        empty = CSRModel(head.config)
    assert empty.encoder.weight.is_meta
    head.save_pretrained(tmp_path)
    empty.load_state_dict(CSRModel.from_pretrained(tmp_path).state_dict(), assign=True)
    assert equal(empty.state_dict().values(), head.state_dict().values())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(head, inputs, duplicate):
    twin = duplicate(head)
    expected = head.encode(inputs)
    assert equal(twin.encode(inputs), expected)
    with torch.no_grad():
        twin.encoder.weight.zero_()
    assert equal(head.encode(inputs), expected)


def test_auto_classes_know_the_head(head, tmp_path):
    head.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is CSRConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is CSRModel


def test_every_process_saves_the_code_with_the_weights(tmp_path):
    # In a process of its own: this one has loaded the Auto classes.
    script = f"""
import sys
from csr_hf import CSRConfig, CSRModel
CSRModel(CSRConfig(input_dim=4, hidden_dim=8, k=2)).save_pretrained({str(tmp_path)!r})
assert "transformers.models.auto.modeling_auto" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", *CODE}
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {"AutoConfig": "configuration_csr.CSRConfig", "AutoModel": "modeling_csr.CSRModel"}


def make_old(head, folder):
    """Save a head as it was when its model type was "csr" and its config had fewer settings."""
    head.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    for name in ("base_model_settings", "fingerprints"):
        del settings[name]
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "csr"}))
    return folder


def test_saved_folder_loads_where_csr_hf_is_not_installed(inputs, tmp_path):
    head = make_head(tied_decoder=False)
    head.save_pretrained(tmp_path / "head")
    make_old(head, tmp_path / "old")
    names = {path.name for path in (tmp_path / "head").iterdir()}
    assert {"config.json", "model.safetensors", *CODE} <= names
    torch.save(inputs, tmp_path / "inputs.pt")
    script = f"""
import sys
sys.modules["csr_hf"] = None  # importing it fails, as where it is not installed
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained({str(tmp_path / "head")!r}, trust_remote_code=True)
values, indices = model.encode(torch.load({str(tmp_path / "inputs.pt")!r}), refine=True)
torch.save((values, indices, type(model).__module__), {str(tmp_path / "outputs.pt")!r})
old = AutoModel.from_pretrained({str(tmp_path / "old")!r}, trust_remote_code=True)
assert (old.fingerprint, old.config.model_type) == (model.fingerprint, "csr_hf")
"""
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    values, indices, module = torch.load(tmp_path / "outputs.pt")
    assert module.startswith("transformers_modules.")
    assert equal((values, indices), head.encode(inputs, refine=True))


@pytest.mark.parametrize(
    "order",
    [
        "import transformers; transformers.AutoModel; import csr_hf",
        pytest.param("import csr_hf, transformers", marks=pytest.mark.slow),
    ],
)
def test_auto_classes_know_the_head_in_either_import_order(tmp_path, order):
    make_head().save_pretrained(tmp_path)
    script = (
        f"{order}\nmodel = transformers.AutoModel.from_pretrained({str(tmp_path)!r})\n"
        "assert type(model).__module__ == 'csr_hf.modeling_csr', type(model)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_other_widths_are_refused(head):
    for call in (head.encode, head.project, head):
        with pytest.raises(ValueError, match=r"embeddings are 7 wide, this head takes `input_dim` 12"):
            call(torch.zeros(2, 7))


@pytest.mark.parametrize("k", [0, 41, 2.5, "3", True])
def test_k_out_of_range_is_refused(head, inputs, k):
    with pytest.raises(ValueError, match=rf"`k` \({k}\) must be between 1 and `hidden_dim` \(40\)"):
        head.encode(inputs, k)


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ARRAYS = {
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "another byte order": lambda x: x.astype(">f4"),
    "columns": np.asfortranarray,
    "reversed": lambda x: x[::-1][::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
}


@pytest.mark.parametrize("refine", [False, True, "pursuit"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("given", FLOATS)
def test_every_type_of_embeddings_and_head(inputs, dtype, given, refine):
    """Against the same numbers in float64; half precision may choose other latents, but decodes as close."""
    head = make_head().to(dtype)
    rows = inputs.to(given).to(dtype)
    wide = copy.deepcopy(head).double()
    values, indices = head.encode(inputs.to(given), 6, refine=refine)
    assert (values.dtype, indices.dtype) == (dtype, torch.int64)
    decoded = head.decode(values, indices)
    assert decoded.dtype == dtype
    expected = wide.decode(*wide.encode(rows.double(), 6, refine=refine))
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-4)
    errors = [(each.double() - rows.double()).norm(dim=1).mean().item() for each in (decoded, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=tolerance)
    latents, offset = head.project(inputs.to(given))
    torch.testing.assert_close(latents.double(), wide.project(rows.double())[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(offset.double(), wide.project(rows.double())[1], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("refine", [False, True, "pursuit"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_give_arrays(head, inputs, kind, refine):
    array = ARRAYS[kind](inputs.numpy())
    expected = head.encode(torch.from_numpy(array.astype(np.float32)), 4, refine=refine)
    found = head.encode(array, 4, refine=refine)
    assert all(isinstance(each, np.ndarray) for each in found)
    assert equal(map(torch.from_numpy, found), [tensor.detach() for tensor in expected])
    decoded = head.decode(found[0], found[1].astype(np.uint16))
    np.testing.assert_array_equal(decoded, head.decode(*expected).detach())
    latents, offset = head.project(array)
    assert (latents.shape, offset.shape) == ((50, 40), (50,))


def test_arrays_of_a_bfloat16_head_are_float32(inputs):
    head = make_head().bfloat16()
    values, indices = head.encode(inputs.numpy())
    assert (values.dtype, head.decode(values, indices).dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(values, head.encode(inputs)[0].float().detach())


def test_means_of_modalities_are_subtracted_from_arrays(inputs):
    head = make_head(modalities=["image", "text"])
    head.modality_bias.normal_()
    expected = inputs - head.modality_bias[1]
    np.testing.assert_array_equal(head.subtract_modality_mean(inputs.numpy(), "text"), expected)
    assert torch.equal(head.subtract_modality_mean(inputs, "text"), expected)


@pytest.mark.parametrize("kind", ["tensor", "array"])
@pytest.mark.parametrize("refine", [False, True, "pursuit"])
@pytest.mark.parametrize("shape", [(), (1,), (50,), (5, 10), (5, 2, 5), (0,), (3, 0)])
def test_every_leading_shape(head, inputs, shape, refine, kind):
    rows = inputs[: int(np.prod(shape))].reshape(*shape, 12)
    given = rows.numpy() if kind == "array" else rows
    values, indices = head.encode(given, 3, refine=refine)
    assert values.shape == indices.shape == (*shape, 3)
    assert head.decode(values, indices).shape == (*shape, 12)
    latents, offset = head.project(given)
    assert (latents.shape, offset.shape) == ((*shape, 40), shape)
    flat = head.encode(rows.reshape(-1, 12), 3, refine=refine)
    assert torch.equal(torch.as_tensor(indices).reshape(-1, 3), flat[1])
    torch.testing.assert_close(torch.as_tensor(values).reshape(-1, 3), flat[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_autocast(head, inputs, dtype, wide):
    head.to(wide)
    expected = {refine: head.encode(inputs, 6, refine=refine) for refine in (True, "pursuit")}
    with torch.autocast("cpu", dtype):
        for refine, codes in expected.items():
            assert equal(head.encode(inputs, 6, refine=refine), codes)
        values, indices = head.encode(inputs, 6)
        decoded = head.decode(values, indices)
        output = head(inputs)
        output.loss.backward()
    torch.testing.assert_close(decoded.to(wide), head.decode(values.to(wide), indices), atol=0.1, rtol=0.1)
    assert output.loss.item() == pytest.approx(head(inputs).loss.item(), rel=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


REFUSED = [
    (np.zeros((2, 12), np.int8), r"`embeddings` \(int8\) must be floats"),
    (np.array([["text"] * 12]), r"`embeddings` \(<U4\) must be floats"),
    (np.zeros((2, 12), object), r"`embeddings` \(object\) must be floats"),
    (torch.zeros(2, 12, dtype=torch.long), r"`embeddings` \(torch.int64\) must be floats"),
    (torch.zeros(2, 12, dtype=torch.complex64), r"`embeddings` \(torch.complex64\) must be floats"),
    ([[0.0] * 12], r"`embeddings` \(list\) must be a tensor or a numpy array"),
    (torch.tensor(1.0), "embeddings are 0 wide, this head takes `input_dim` 12"),
    (np.zeros(7), "embeddings are 7 wide, this head takes `input_dim` 12"),
    (torch.zeros(2, 12, device="meta"), "`embeddings` are on meta, the head on cpu"),
]


@pytest.mark.parametrize(("rows", "message"), REFUSED)
def test_what_is_no_embedding_is_refused(rows, message):
    head = make_head()
    calls = [head.encode, head.project, head.pre_activations, head.subtract_modality_mean, head]
    calls += [lambda x: head.encode(x, refine=True), lambda x: head.encode(x, refine="pursuit")]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(rows)


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2, 4, dtype=torch.long),
            r"`values` \(2, 3\) and `indices` \(2, 4\) must both",
        ),
        (torch.zeros(2, 3), torch.zeros(2, 3), r"`indices` \(torch.float32\) must be integers"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3).long(), r"`values` \(torch.int64\) must be floats"),
        (np.zeros((1, 1)), np.full((1, 1), 40), r"`indices` must lie in \[0, 40\); found 40 to 40"),
        (np.zeros((1, 1)), np.full((1, 1), -1), r"`indices` must lie in \[0, 40\); found -1 to -1"),
        (np.zeros(()), np.zeros((), int), r"must both have the shape"),
    ],
)
def test_what_is_no_code_is_refused(values, indices, message):
    with pytest.raises(ValueError, match=message):
        make_head().decode(values, indices)
