"""Check embeddings before a training: refuse those that nothing can be learned from, warn of others."""

from __future__ import annotations

import numpy as np

from csr_hf.data.run_data import RunData

_SAMPLE = 16_384
# Codes are stored in float16, whose largest number is 65,504, and are about as large as their embeddings.
_LARGEST_NORM = 30_000.0
# Below about 1e-4 its numbers lose digits.
_SMALLEST_NORM = 1e-3
_LEAST_SPREAD = 1e-6
_WIDEST_RATIO = 100.0
_MOST_REPEATED = 0.5


def check_embeddings(data: RunData, hidden_dim: int) -> list[str]:
    """Check the embeddings that a head is to be trained on, by an even sample of 16,384 of them.

    Args:
        data: of the run, embedded.
        hidden_dim: latents of the head.

    Returns:
        Warnings, one sentence each: fewer rows than latents, rows that hardly differ, are zero, or repeat each other,
        and norms of very different size.

    Raises:
        ValueError: if all rows are equal, so that there is nothing to learn, or too large or too small to be stored as
            codes.
    """
    count = sum(int((~source.held_out).sum()) * len(source.roles) for source in data.sources)
    if count < 2:
        return []
    rows = data.train_embeddings(most=_SAMPLE).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    spread, size = float(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean()), float(np.square(norms).mean())
    if (rows == rows[0]).all():
        raise ValueError(
            f"all {count:,} embeddings to train on are equal: there is nothing to learn. Check that `data.columns` "
            "names what differs from row to row."
        )
    scale = 10.0 ** np.ceil(np.log10(norms.max()))
    if norms.max() > _LARGEST_NORM:
        raise ValueError(
            f"embeddings have norms up to {norms.max():.3g}, and codes hold numbers up to 65,504. Divide all of them "
            f"by {scale:.0e}; their cosines stay the same."
        )
    if norms.max() < _SMALLEST_NORM:
        raise ValueError(
            f"embeddings have norms of at most {norms.max():.3g}, and codes lose digits of numbers below 0.0001. "
            f"Multiply all of them by {1 / scale:.0e}; their cosines stay the same."
        )
    found = []
    if count < hidden_dim:
        found.append(
            f"{count:,} embeddings for {hidden_dim:,} latents: most of them learn nothing. Lower `model.hidden_dim`, "
            "or give more data."
        )
    if spread < _LEAST_SPREAD * size:
        found.append(
            f"the embeddings hardly differ: their variance is {spread / size:.1e} of their size. Check that the data "
            "is what it should be."
        )
    return found + _check_norms(norms) + _check_repeats(rows)


def _check_norms(norms: np.ndarray) -> list[str]:
    found = []
    if not norms.all():
        found.append(
            f"{np.mean(norms == 0):.1%} of the embeddings are zero: nothing finds them. Leave those rows out."
        )
    median = np.median(norms[norms > 0])
    if norms.max() > _WIDEST_RATIO * median:
        found.append(
            f"norms of the embeddings differ: half are below {median:.3g}, the largest is {norms.max():.3g}. The "
            "large ones decide what is learned; scale all to one norm if cosines are what counts."
        )
    return found


def _check_repeats(rows: np.ndarray) -> list[str]:
    distinct = len(np.unique(rows, axis=0))
    if distinct > (1 - _MOST_REPEATED) * len(rows):
        return []
    return [
        f"only {distinct:,} of {len(rows):,} embeddings are different ones: figures of held-out rows mean less. Leave "
        "repeated rows out."
    ]
