"""Compilation settings and the float16 conversion that all kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_HALF_TO_FLOAT = np.float32(2.0**112)


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`njit` that keeps compiled code on disk where it can; numba refuses `cache` when no folder is writable."""
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


@jit()
def from_half(bits: np.uint16) -> np.float32:
    """The float32 equal to a non-negative finite float16: move exponent and mantissa, then correct the bias."""
    return np.uint32(np.uint32(bits) << np.uint32(13)).view(np.float32) * _HALF_TO_FLOAT
