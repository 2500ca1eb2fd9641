"""Compilation settings, and what kernels share: float16, and two processor instructions that numba does not name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

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


def _popcount(typing_context: Any, bits: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(made.data, [arguments[1]]), ir.PointerType(ir.IntType(8)))
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


popcount: Any = intrinsic(_popcount)
"""How many bits of a uint64 are set."""
prefetch: Any = intrinsic(_prefetch)
"""Ask for the cache line of an element of a one-dimensional array; an index out of range does no harm."""
