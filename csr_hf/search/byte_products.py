"""Inner products of a float query with many rows of bytes, by the instructions that processors have for it.

They multiply unsigned by signed bytes and add four products at a time to 32 bits. So rows are moved up by 128, and a
query becomes two signed bytes a component: about 14 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.plumbing.jit import jit, processor_features

_BYTE, _WORD, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_DOTS = (("avx512vnni", "512", 64), ("avxvnni", "256", 32))
_OFFSET = 128
_HIGH = 128
_MOST = 63 * _HIGH + 63
"""Largest component of a query in steps, so that both of its bytes are within -64 and 63."""


def _dot() -> tuple[str, int] | None:
    """The widest such instruction of the processor that numba compiles for, and its width in bytes."""
    present = processor_features()
    return next(((bits, width) for feature, bits, width in _DOTS if feature in present), None)


DOT = _dot()
"""None where the processor has none that is known here."""
_BITS, WIDTH = DOT or ("512", 64)


def _products_of(typing_context: Any, rows: Any, row: Any, pieces: Any, query: Any) -> Any:
    """Intrinsic: `sum_axis rows[row, axis] * (128 * pieces[query, 0, axis] + pieces[query, 1, axis])`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix, queries = (context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2))
        kind, whole = ir.VectorType(_WORD, WIDTH // 4), arguments[1].type
        width = cgutils.unpack_tuple(builder, matrix.shape)[1]
        # Names of LLVM's that newer versions read as what took their place.
        dot = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.x86.avx512.vpdpbusd.{_BITS}"
        )
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_WORD, [kind]), f"llvm.vector.reduce.add.v{kind.count}i32"
        )

        def load(pointer: Any) -> Any:
            loaded = builder.load(builder.bitcast(pointer, kind.as_pointer()))
            loaded.align = 1
            return loaded

        start = builder.gep(matrix.data, [builder.mul(arguments[1], width)])
        high = builder.gep(queries.data, [builder.mul(arguments[3], builder.mul(width, whole(2)))])
        low = builder.gep(high, [width])
        zero = ir.Constant(kind, [0] * kind.count)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
        with cgutils.for_range(builder, builder.udiv(width, whole(WIDTH))) as loop:
            at = builder.mul(loop.index, whole(WIDTH))
            own = load(builder.gep(start, [at]))
            for total, piece in zip(totals, (high, low), strict=True):
                more = builder.call(dot, [builder.load(total), own, load(builder.gep(piece, [at]))])
                builder.store(more, total)
        upper, lower = (builder.sext(builder.call(add, [builder.load(total)]), _LONG) for total in totals)
        return builder.add(builder.mul(upper, _LONG(_HIGH)), lower)

    return types.int64(rows, types.int64, pieces, types.int64), generate


_product: Any = intrinsic(_products_of)


def moved(rows: np.ndarray) -> np.ndarray:
    """Rows as `multiply_bytes` takes them, given int8, shape (n, dim): uint8, padded to a multiple of `WIDTH`."""
    n, dim = rows.shape
    made = np.full((n, -(-dim // WIDTH) * WIDTH), _OFFSET, np.uint8)
    made[:, :dim] = (rows.astype(np.int16) + _OFFSET).astype(np.uint8)
    return made


@jit()
def multiply_bytes(rows: np.ndarray, queries: np.ndarray, products: np.ndarray, rounding: np.ndarray) -> None:
    """Products of all queries and all rows.

    Args:
        rows: see `moved`, uint8, shape (n, width).
        queries: float32, shape (m, dim).
        products: receives them, float32, shape (m, n).
        rounding: receives the norm, at most, of what rounding takes from each query; float32, shape (m,).
    """
    count, dim = queries.shape
    pieces = np.zeros((count, 2, rows.shape[1]), np.int8)
    for i in range(count):
        largest, total = np.float32(1e-30), np.int64(0)
        for axis in range(dim):
            largest = max(largest, abs(queries[i, axis]))
        step = largest / np.float32(_MOST)
        for axis in range(dim):
            whole = np.int32(np.rint(queries[i, axis] / step))
            high = (whole + _HIGH // 2) >> 7
            pieces[i, 0, axis], pieces[i, 1, axis] = high, whole - high * _HIGH
            total += whole
        for j in range(rows.shape[0]):
            products[i, j] = np.float32(_product(rows, j, pieces, i) - _OFFSET * total) * step
        rounding[i] = np.float32(0.51) * step * np.sqrt(np.float32(dim))
