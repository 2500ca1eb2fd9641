"""The dictionary fitted to codes by pursuit, at the end of a training."""

import numpy as np
import pytest
import torch

from csr_hf import CSRModel, CSRTrainer, CSRTrainingArguments
from csr_hf.codes import decode_codes, encode_embeddings
from csr_hf.data.sources import Source
from csr_hf.training.refit import refit_dictionary
from csr_hf.training.rows import TrainingRows
from tests.conftest import make_head


def make_trainer(folder, embeddings, head=None, **arguments):
    settings = {"max_steps": 30, "per_device_train_batch_size": 64, "refits": 3, **arguments}
    args = CSRTrainingArguments(**settings, output_dir=str(folder))
    return CSRTrainer(make_head() if head is None else head, args, embeddings)


def pursuit_error(head, rows, k=5):
    return float(((decode_codes(head, encode_embeddings(head, rows, k, refine="pursuit")) - rows) ** 2).sum())


@pytest.mark.parametrize("tied", [True, False])
def test_refits_bring_codes_by_pursuit_closer(tmp_path, embeddings, tied):
    heads = []
    for refits in (0, 3):
        trainer = make_trainer(tmp_path / str(refits), embeddings, make_head(tied_decoder=tied), refits=refits)
        trainer.train()
        heads.append(trainer.model)
    plain, refitted = heads
    assert pursuit_error(refitted, embeddings) < 0.97 * pursuit_error(plain, embeddings)
    assert torch.equal(plain.pre_bias, refitted.pre_bias)
    assert torch.equal(plain.encoder.weight, refitted.encoder.weight) != tied
    np.testing.assert_allclose(
        refitted.dictionary.detach().norm(dim=1), plain.dictionary.detach().norm(dim=1), rtol=1e-4
    )


def test_each_round_solves_for_the_atoms_that_decode_best():
    """One latent a code, one atom: the direction of the mean, as the definition has it."""
    rng = np.random.default_rng(0)
    head = make_head(input_dim=4, hidden_dim=8, k=1)
    with torch.no_grad():
        head.pre_bias.zero_()
        head.encoder.weight.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
    rows = np.abs(rng.standard_normal((200, 1))) * np.array([[1.0, 0.2, 0, 0]])
    rows = (rows + 0.01 * rng.standard_normal((200, 4))).astype(np.float32)
    source = Source("made up", ("text",), np.zeros(200, bool), vectors={"text": rows})
    atoms = refit_dictionary(head, TrainingRows([source]), 2, 0)
    np.testing.assert_allclose(atoms[0], np.array([1, 0.2, 0, 0]) / np.sqrt(1.04), atol=0.02)


def test_interrupted_run_ends_with_the_same_bits(tmp_path, embeddings):
    whole = make_trainer(tmp_path / "whole", embeddings, save_steps=10)
    whole.train()
    make_trainer(tmp_path / "cut", embeddings, save_steps=10).train(until=20)
    cut = make_trainer(tmp_path / "cut", embeddings, save_steps=10)
    cut.train(resume_from_checkpoint=True)
    assert torch.equal(cut.model.encoder.weight, whole.model.encoder.weight)
    again = make_trainer(tmp_path / "cut", embeddings, save_steps=10)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.model.encoder.weight, whole.model.encoder.weight)


def test_refitted_heads_are_saved_and_load(tmp_path, embeddings):
    trainer = make_trainer(tmp_path / "run", embeddings)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "head")
    assert CSRModel.from_pretrained(tmp_path / "head").fingerprint == trainer.model.fingerprint


def test_heads_too_wide_for_refits_are_refused(tmp_path, embeddings):
    with pytest.raises(ValueError, match=r"`refits` \(3\) needs a hidden_dim of at most 8,192, not 8,200"):
        make_trainer(tmp_path, embeddings, make_head(hidden_dim=8200))
