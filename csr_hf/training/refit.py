"""Fit the dictionary of a trained head to the codes that documents get: those of pursuit, not those of the encoder."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch

from csr_hf.coding.pursuit import MOST_LATENTS, Pursuit
from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import from_first_process
from csr_hf.plumbing.logs import progress_bar
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.rows import TrainingRows

_MOST_ROWS = 100_000
_PARTS = 12
_MULTIPLES = (0.25, 0.5, 1, 2)
# How strongly an atom is held to where it is, relative to how much the codes say of a mean atom.
_RIDGE = 1e-3


def check_refits(model: CSRModel, args: CSRTrainingArguments) -> None:
    """Check that a head is not too wide for the refits that are asked for.

    Raises:
        ValueError: if it is.
    """
    if args.refits and model.config.hidden_dim > MOST_LATENTS:
        width = f"{MOST_LATENTS:,}, not {model.config.hidden_dim:,}"
        raise ValueError(f"`refits` ({args.refits}) needs a hidden_dim of at most {width}. Set it to 0.")


def refit(model: CSRModel, rows: TrainingRows, args: CSRTrainingArguments) -> None:
    """Refit the dictionary of a trained head in place, on the first process: the encoder too where both are tied."""
    atoms = torch.from_numpy(from_first_process(lambda: refit_dictionary(model, rows, args.refits, args.seed)))
    with torch.no_grad():
        if model.config.tied_decoder:
            model.encoder.weight.copy_(atoms)
        else:
            model.decoder.weight.copy_(atoms.t())


def refit_dictionary(model: CSRModel, rows: TrainingRows, rounds: int, seed: int) -> np.ndarray:
    """Alternate between codes by pursuit and the atoms that decode them best; nothing of the head is changed.

    This is the method of optimal directions (Engan, Aase and Husøy, ICASSP 1999) with codes of k/4, k/2, k and 2k
    latents, each weighed by the inverse of its mean squared error. Atoms keep their norms, and those that no code uses
    stay as they are.

    Args:
        model: a trained head, for embeddings as they are.
        rows: its training embeddings; 100,000 of them are used.
        rounds: how often codes and atoms are computed.
        seed: which rows, and which k for which of them.

    Returns:
        atoms, float32, shape (hidden_dim, input_dim).
    """
    config, rng = model.config, np.random.default_rng([seed, 0xD1C7])
    most = max(1, min(config.hidden_dim, config.input_dim) // 2)
    ks = [min(most, max(1, round(multiple * config.k))) for multiple in _MULTIPLES]
    bias = model.pre_bias.detach().float().cpu()
    atoms = model.dictionary.detach().float().cpu()
    norms = atoms.norm(dim=-1, keepdim=True).clamp_min(1e-12).numpy()
    units = atoms.numpy() / norms
    chosen = rng.permutation(len(rows))[:_MOST_ROWS]
    for _ in progress_bar(range(rounds), desc="refitting", unit="round"):
        pursuit = Pursuit(torch.from_numpy(units), bias)
        products = np.zeros((len(units), len(units)))
        targets = np.zeros(units.shape)
        for number, part in enumerate(np.array_split(rng.permutation(chosen), _PARTS)):
            embeddings = rows.rows(np.sort(part))
            codes = _to_matrix(pursuit, embeddings, ks[number % len(ks)])
            centered = embeddings - bias.numpy()
            # In units of the error, which is never nothing in float32.
            weight = 1 / max(
                float(((centered - codes @ units) ** 2).mean()), 1e-12 * float((centered**2).mean()), 1e-30
            )
            products += weight * (codes.T @ codes).toarray()
            targets += weight * (codes.T @ centered)
        ridge = _RIDGE * np.trace(products) / len(units)
        products[np.diag_indices(len(units))] += ridge
        found = np.linalg.solve(products, targets + ridge * units)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        units = np.where(lengths > 0, found / np.maximum(lengths, 1e-30), units).astype(np.float32)
    return units * norms


def _to_matrix(pursuit: Pursuit, embeddings: np.ndarray, k: int) -> scipy.sparse.csr_matrix:
    chosen = pursuit.choose(torch.from_numpy(embeddings), k)
    n = len(embeddings)
    pointers = np.arange(0, n * k + 1, k)
    shape = (n, len(pursuit.gram))
    return scipy.sparse.csr_matrix((chosen.values.ravel(), chosen.indices.ravel(), pointers), shape)
