"""Compilation settings, and what kernels share: float16, and processor instructions that numba does not name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

_HALF_TO_FLOAT = np.float32(2.0**112)
LINE = 64
"""Bytes of a cache line."""


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile like `njit`, and keep the compiled code on disk; numba refuses `cache` where no folder is writable."""
    options = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


def frozen(array: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """Return a read-only contiguous view, so that kernels see one type of array whoever made it."""
    view: np.ndarray = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


def processor_features() -> set[str]:
    """Return what the processor that numba compiles for can do, in LLVM's names."""
    name, features = getattr(config, "CPU_NAME", None), getattr(config, "CPU_FEATURES", None)
    if name or features is not None:
        return {feature[1:] for feature in (features or "").split(",") if feature.startswith("+")}
    return {feature for feature, has in llvmlite.binding.get_host_cpu_features().items() if has}


@jit()
def largest_size(numbers: np.ndarray) -> np.float32:
    """Return the largest absolute value of float32; NaN where one is NaN, 0 for none.

    Bits of floats that are not negative are in their order, NaN last, and vectors of integers are compared at once.
    """
    bits, most = numbers.view(np.uint32), np.uint32(0)
    for at in range(bits.shape[0]):
        most = np.uint32(max(most, np.uint32(bits[at] & np.uint32(0x7FFFFFFF))))
    return np.uint32(most).view(np.float32)


@jit()
def half_by_bits(bits: np.uint16) -> np.float32:
    """Convert a finite float16, given its bits, to float32: move exponent and mantissa, then correct the bias."""
    size = np.uint32(np.uint32(bits & np.uint16(0x7FFF)) << np.uint32(13)).view(np.float32) * _HALF_TO_FLOAT
    return -size if bits >> np.uint16(15) else size


def _half(typing_context: Any, bits: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _lowest(typing_context: Any, bits: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

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


# Elsewhere LLVM would call a function that numba does not bring.
_WIDENS = {"f16c", "fp-armv8", "fullfp16"} & processor_features()
from_half: Any = intrinsic(_half) if _WIDENS else half_by_bits
"""The float32 equal to a finite float16, given its bits."""
lowest: Any = intrinsic(_lowest)
"""Which is the lowest bit of a uint64 that is set."""
prefetch: Any = intrinsic(_prefetch)
"""Ask for the cache line of an element of a one-dimensional array; an index out of range does no harm."""
