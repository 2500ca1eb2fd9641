"""Fit codes to embeddings by non-negative least squares. A copy of this file is saved in each model repository."""

from __future__ import annotations

import torch

EXPLAINED = 1e-3
"""A pursuit ends when no atom points to what is left with more than this share of the first one's inner product."""
REFIT_EVERY = 4
"""Latents that a pursuit chooses before it fits all values again."""
_RIDGE = 1e-5
_PIVOTS = 10
_SWEEPS = 50
_TOLERANCE = 1e-5
# Up to this many atoms, the inner products of all pairs (64 MB) may be computed and then looked up.
_GRAM_LATENTS = 4096


def pursue(atoms: torch.Tensor, correlations: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose latents one at a time, each the one whose atom explains most of what is left, then fit their values.

    What is left is what the chosen atoms, with their values, leave of the embedding. Values are fitted again after
    every fourth latent; orthogonal matching pursuit does so after each, which comes a little closer and takes longer.

    Args:
        atoms: the dictionary, shape (hidden_dim, input_dim).
        correlations: inner products of centered embeddings with the atoms, shape (n, hidden_dim).
        k: latents to choose.

    Returns:
        values (n, k), descending, and indices (n, k), int64. Latents that would explain nothing more have the value 0.
    """
    norms = atoms.norm(dim=-1).clamp_min(1e-12)
    units, whole = atoms / norms[:, None], correlations / norms
    gram = units @ units.t() if len(atoms) <= _GRAM_LATENTS else None
    indices = torch.zeros(len(whole), k, dtype=torch.long, device=whole.device)
    active = torch.zeros_like(indices, dtype=torch.bool)
    left, enough = whole, whole.amax(dim=-1).clamp_min(0) * EXPLAINED
    for place in range(k):
        best, chosen = left.max(dim=-1)
        indices[:, place] = chosen
        # Once nothing is left to explain, the latents that follow stay at 0.
        active[:, place] = (best > enough) & (active[:, place - 1] if place else True)
        until = place + 1
        if until == k:
            break
        if until % REFIT_EVERY == 0:
            values, latents = fit(atoms, correlations, indices[:, :until], active[:, :until])
            left = whole - torch.zeros_like(whole).scatter(-1, latents, values) @ atoms @ units.t()
        else:
            products = gram[chosen] if gram is not None else units[chosen] @ units.t()
            left = left - torch.where(active[:, place], best, 0.0)[:, None] * products
        left = left.scatter(-1, indices[:, :until], -torch.inf)
    return fit(atoms, correlations, indices, active)


def fit(
    atoms: torch.Tensor, correlations: torch.Tensor, indices: torch.Tensor, active: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the values of latents by non-negative least squares.

    Args:
        atoms: the dictionary, shape (hidden_dim, input_dim).
        correlations: inner products of centered embeddings with the atoms, shape (n, hidden_dim).
        indices: the latents of each row, shape (n, k).
        active: bool, shape (n, k); the value is 0 where it is False.

    Returns:
        values (n, k), descending, and the indices in the same order.
    """
    target = torch.gather(correlations, -1, indices)
    gram = gram_of_supports(atoms, indices)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    # The ridge is relative to each atom, so that the solution does not depend on the scale of atoms.
    diagonal += (_RIDGE * diagonal).clamp_min(1e-12)
    system, target = restrict(gram, target, active)
    solution = solve(system, target)
    constrained = (solution < 0).any(-1)
    if constrained.any():
        start = solution[constrained]
        solution[constrained] = solve_non_negative(system[constrained], target[constrained], start)
    fitted, order = torch.sort(solution, dim=-1, descending=True, stable=True)
    return fitted, torch.gather(indices, -1, order)


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
