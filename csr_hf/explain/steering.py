"""Steer a search by latents: one is added to the query, removed from it, or required of the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from csr_hf.codes import read_atoms

if TYPE_CHECKING:
    from csr_hf.explain.latents import Latents
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.sparse_codes import SparseCodes

# How far a query is pushed beyond having nothing of a latent, in norms of the query.
_PUSH = 0.25
_LARGEST = 1e6
# Beside inner products of atoms, so that equal ones can be removed together.
_RIDGE = 1e-12


class Steer(TypedDict, total=False):
    """Keywords of a search that steer it, see `read_steering`."""

    more: Mapping[int | str, float] | None
    without: Sequence[int | str]
    must: Sequence[int | str]


@dataclass(frozen=True)
class Steering:
    """Latents to steer by, as `read_steering` makes it."""

    more: Mapping[int, float]
    """Latent -> weight that is added, in norms of the query."""
    without: tuple[int, ...] = ()
    """Latents to remove."""
    must: tuple[int, ...] = ()
    """Latents that a document must have."""

    @property
    def changes_query(self) -> bool:
        """Whether the query is another one than without steering."""
        return bool(self.more or self.without)


def read_steering(
    latents: Latents | int,
    *,
    more: Mapping[int | str, float] | None = None,
    without: Sequence[int | str] = (),
    must: Sequence[int | str] = (),
    **others: Any,
) -> Steering:
    """Find the latents that are meant, by number or name.

    Args:
        latents: of the head, see `Latents.find`; or how many there are, if they have no names.
        more: latent -> weight, in norms of the query: 0.5 is much. Negative weights push away.
        without: latents to remove from the query; it is pushed away from them.
        must: latents that documents must have.
        **others: refused.

    Raises:
        TypeError: for other keywords.
        ValueError: for an unknown or ambiguous name, a weight that is no finite number, or a latent that is wanted
            and unwanted at a time.
    """
    if others:
        raise TypeError(
            f"a search takes no `{next(iter(others))}` beside `more`, `without` and `must`. How to search is said by "
            "`params`, such as SearchParams(recall=0.9)."
        )
    added: dict[int, float] = {}
    for latent, weight in (more or {}).items():
        if not isinstance(weight, int | float | np.floating) or not abs(weight) <= _LARGEST:
            raise ValueError(f"`more` gives {latent!r} the weight {weight!r}. Give a number, such as 0.3 or -0.3.")
        added[_find(latents, latent)] = float(weight)
    removed, required = (_find_all(latents, name, given) for name, given in (("without", without), ("must", must)))
    for latent in removed:
        wanted = "more" if latent in added else "must" if latent in required else None
        if wanted:
            name = f"latent {latent}" if isinstance(latents, int) else latents.name(latent)
            raise ValueError(f"`{wanted}` and `without` both name {name!r}. Leave it out of one.")
    return Steering(added, removed, required)


def steer_queries(head: CSRModel, queries: np.ndarray, steering: Steering) -> np.ndarray:
    """Change dense queries, so that they ask for more of some latents and for none of others, see `turn_queries`.

    Args:
        head: of the latents.
        queries: embeddings, less the mean of their modality, shape (n, input_dim).
        steering: of `read_steering`; `must` changes no query.
    """
    if not steering.changes_query:
        return np.asarray(queries, np.float32)
    return turn_queries(read_atoms(head), queries, steering)


def turn_queries(dictionary: np.ndarray, queries: np.ndarray, steering: Steering) -> np.ndarray:
    """Change dense queries, given the atoms of a head.

    .. code-block:: text

        q' = q - (its part within the span of the atoms of `without`) - 0.25 ||q|| (the mean of those atoms)
               + ||q|| sum_j more_j atom_j             atoms of unit norm; q' is scaled to the norm of q

    Args:
        dictionary: atoms, shape (hidden_dim, input_dim).
        queries: as for `steer_queries`.
        steering: as for `steer_queries`.

    Returns:
        float32, shape (n, input_dim).
    """
    queries = np.asarray(queries, np.float32)
    if not steering.changes_query:
        return queries
    changed = queries.astype(np.float64)
    norms = _norms(changed)
    if steering.without:
        atoms = _unit_atoms(dictionary, steering.without)
        products = atoms @ atoms.T + _RIDGE * np.eye(len(atoms))
        parts = np.linalg.solve(products, atoms @ changed.T)
        changed = changed - (parts + _PUSH / len(atoms) * norms.T).T @ atoms
    if steering.more:
        weights = np.array(list(steering.more.values()))
        changed = changed + norms * (weights @ _unit_atoms(dictionary, tuple(steering.more)))
    lengths = _norms(changed)
    lengths[lengths == 0] = 1
    return np.asarray(changed * (norms / lengths), np.float32)


def have_latents(codes: SparseCodes, must: Sequence[int]) -> np.ndarray:
    """Tell which codes have all of some latents, bool, shape (n,): what an index reads from its inverted lists."""
    found = np.ones(len(codes), bool)
    active = codes.values > 0
    for latent in must:
        found &= ((codes.indices == latent) & active).any(axis=1)
    return found


def _find(latents: Latents | int, latent: int | str) -> int:
    if not isinstance(latents, int):
        return latents.find(latent)
    if isinstance(latent, str) and not latent.strip().isdecimal():
        raise ValueError(f"{latent!r} is a name, and the latents have none yet. `csr-hf explain RUN` names them.")
    if not 0 <= int(latent) < latents:
        raise ValueError(f"latent {latent} does not exist. Give a number from 0 to {latents - 1:,}.")
    return int(latent)


def _find_all(latents: Latents | int, argument: str, given: Sequence[int | str]) -> tuple[int, ...]:
    if isinstance(given, str):
        raise ValueError(f"`{argument}` ({given!r}) is a text. Give a list of latents: [{given!r}].")
    return tuple(dict.fromkeys(_find(latents, latent) for latent in given))


def _unit_atoms(dictionary: np.ndarray, latents: tuple[int, ...]) -> np.ndarray:
    atoms = dictionary[list(latents)].astype(np.float64)
    norms = _norms(atoms)
    norms[norms == 0] = 1
    return atoms / norms


def _norms(rows: np.ndarray) -> np.ndarray:
    """Return the norm of each row as a column, in a fraction of the time of `np.linalg.norm`."""
    return np.asarray(np.sqrt(np.vecdot(rows, rows)))[:, None]
