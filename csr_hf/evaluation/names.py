"""Names that recipes and the command line choose from; light, since settings import them."""

from __future__ import annotations

from typing import Literal

Baseline = Literal["truncate", "adapter", "pca", "int8", "binary", "rotated", "pq", "opq", "rabitq"]
"""What CSR is compared with, see `baselines`."""

FITTED: tuple[Baseline, ...] = ("adapter", "pca", "int8", "rotated", "pq", "opq", "rabitq")
"""Those that are fitted on training embeddings."""

DEFAULT_BASELINES: tuple[Baseline, ...] = ("truncate", "pca", "int8", "binary")
"""Those of a run whose sizes follow from k: quick to fit, and without faiss."""

EQUAL_BYTES_BASELINES: tuple[Baseline, ...] = ("truncate", "adapter", "pq", "binary", "rotated")
"""Those of a run that is measured at given bytes: of each kind what keeps most and is fitted in a minute."""
