"""Solve batches of non-negative least-squares problems. A copy of this file is saved in each model repository."""

from __future__ import annotations

import torch

_PIVOTS = 10
_SWEEPS = 50
_TOLERANCE = 1e-5
# Up to this many atoms, the inner products of all pairs (64 MB) may be computed and then looked up.
_GRAM_LATENTS = 4096


def gram_of_supports(atoms: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Compute the inner products of the atoms that each row chooses.

    Args:
        atoms: shape (hidden_dim, input_dim).
        indices: of the chosen atoms, shape (n, k).

    Returns:
        Gram matrices, shape (n, k, k).
    """
    # Looking products up is cheaper per row; computing all pairs first pays off from about this many rows.
    if len(atoms) <= _GRAM_LATENTS and 4 * indices.numel() * indices.shape[-1] >= len(atoms) ** 2:
        return (atoms @ atoms.t())[indices[:, :, None], indices[:, None, :]]
    support = atoms[indices]
    return support @ support.transpose(-1, -2)


def restrict(system: torch.Tensor, target: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fix the unknowns that are not `kept` at zero: their equations become 1 * z = 0.

    Args:
        system: matrices, shape (n, k, k).
        target: right sides, shape (n, k).
        kept: bool, shape (n, k).
    """
    both = kept[:, :, None] & kept[:, None, :]
    system = torch.where(both, system, 0.0) + torch.diag_embed((~kept).to(system))
    return system, torch.where(kept, target, 0.0)


def solve(system: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Solve positive definite systems (n, k, k) for targets (n, k)."""
    return torch.cholesky_solve(target[..., None], torch.linalg.cholesky(system))[..., 0]


def solve_non_negative(system: torch.Tensor, target: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Minimize z^T system z / 2 - target^T z over z >= 0.

    Block pivoting (Kim and Park, doi 10.1137/110821172): solve for a set of positive values, move every value that
    violates the optimality conditions into or out of the set, repeat. A few rounds suffice unless k exceeds the width
    of the embeddings; coordinate descent finishes the rows that are left.

    Args:
        system: positive definite matrices, shape (n, k, k).
        target: shape (n, k).
        start: the minimum without the bound, shape (n, k).
    """
    solution, positive = start.clamp_min(0), start > 0
    rows = torch.arange(len(target), device=target.device)
    for _ in range(_PIVOTS):
        part, wanted = system[rows], target[rows]
        fitted = solve(*restrict(part, wanted, positive))
        slope = (part @ fitted[..., None])[..., 0] - wanted
        bound = -_TOLERANCE * wanted.abs().amax(-1, keepdim=True)
        wrong = torch.where(positive, fitted < 0, slope < bound)
        undecided = wrong.any(-1)
        solution[rows[~undecided]] = fitted[~undecided]
        rows, positive = rows[undecided], (positive ^ wrong)[undecided]
        if len(rows) == 0:
            return solution
    solution[rows] = _descend_non_negative(system[rows], target[rows], solution[rows])
    return solution


def _descend_non_negative(system: torch.Tensor, target: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Minimize z^T system z / 2 - target^T z over z >= 0, one coordinate of all rows at a time."""
    solution = start.clone()
    for _ in range(_SWEEPS):
        before = solution.clone()
        for j in range(target.shape[-1]):
            slope = (system[:, j] * solution).sum(-1) - target[:, j]
            solution[:, j] = (solution[:, j] - slope / system[:, j, j]).clamp_min(0)
        if (solution - before).abs().max() <= _TOLERANCE * solution.max():
            break
    return solution
