"""Names that recipes and the command line choose from; light, since settings import them."""

from __future__ import annotations

from typing import Literal

Baseline = Literal["truncate", "pca", "int8", "binary", "pq"]
"""What CSR is compared with, see `baselines`."""

Copy = Literal["binary", "int8", "float16"]
"""A copy of the embeddings, stored beside the codes to rerank by."""
