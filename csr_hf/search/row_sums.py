"""Weighted sums of a matrix's rows, kept in vector registers: what a sparse code makes of centroids, row by latent.

A loop in numba would load and store the sums for every latent. Numbers of eight bits, because reading the rows is what
takes the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.plumbing.jit import jit

WIDTH = 32
"""Columns of a matrix are a multiple of this."""
_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def _sum_of(registers: int) -> Any:
    """An intrinsic that sums up `registers` times `WIDTH` columns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        indices, values, matrix, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 1, 3, 6)
        )
        row, column = arguments[2], arguments[5]
        whole, stored, kind = row.type, ir.VectorType(_BYTE, WIDTH), ir.VectorType(_SHORT, WIDTH)
        same = ir.Constant(ir.VectorType(_WORD, WIDTH), [0] * WIDTH)

        def everywhere(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, _WORD(0))
            return builder.shuffle_vector(one, one, same)

        count, stride = (cgutils.unpack_tuple(builder, array.shape)[1] for array in (indices, matrix))
        totals = [cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * WIDTH)) for _ in range(registers)]
        shift = everywhere(arguments[4])
        with cgutils.for_range(builder, count) as loop:
            at = builder.add(builder.mul(row, count), loop.index)
            latent = builder.zext(builder.load(builder.gep(indices.data, [at])), whole)
            weight = everywhere(builder.zext(builder.load(builder.gep(values.data, [at])), _SHORT))
            start = builder.gep(matrix.data, [builder.add(builder.mul(latent, stride), column)])
            for number, total in enumerate(totals):
                place = builder.gep(start, [whole(number * WIDTH)])
                loaded = builder.load(builder.bitcast(place, stored.as_pointer()))
                loaded.align = 1
                product = builder.lshr(builder.mul(builder.zext(loaded, kind), weight), shift)
                builder.store(builder.add(builder.load(total), product), total)
        for number, total in enumerate(totals):
            place = builder.gep(sums.data, [builder.add(column, whole(number * WIDTH))])
            builder.store(builder.load(total), builder.bitcast(place, kind.as_pointer())).align = 2
        return context.get_dummy_value()

    def typed(
        typing_context: Any, indices: Any, values: Any, row: Any, matrix: Any, shift: Any, column: Any, sums: Any
    ) -> Any:
        return types.void(indices, values, types.int64, matrix, types.uint16, types.int64, sums), generate

    return intrinsic(typed)


_sum_four, _sum_three, _sum_two, _sum_one = (_sum_of(registers) for registers in (4, 3, 2, 1))


def shift_of(k: int) -> np.uint16:
    """Bits of every product that do not count, so that a sum of k of them fits in 16 bits."""
    return np.uint16(max(k - 1, 0).bit_length())


@jit()
def sum_rows(
    indices: np.ndarray, values: np.ndarray, row: int, matrix: np.ndarray, shift: np.uint16, sums: np.ndarray
) -> None:
    """Sum of the rows of a matrix that a code names, times its values.

    Args:
        indices: rows of the matrix that each code names, uint16 or int32, not negative, shape (n, k).
        values: uint8, shape (n, k).
        row: the code.
        matrix: uint8, shape (rows, width), `width` a multiple of `WIDTH`.
        shift: `shift_of(k)`: products are divided by 2 to the power of this.
        sums: receives the sums, uint16, shape (width,).
    """
    at, width = 0, matrix.shape[1]
    while at < width:
        registers = min((width - at) // WIDTH, 4)
        if registers == 4:
            _sum_four(indices, values, row, matrix, shift, at, sums)
        elif registers == 3:
            _sum_three(indices, values, row, matrix, shift, at, sums)
        elif registers == 2:
            _sum_two(indices, values, row, matrix, shift, at, sums)
        else:
            _sum_one(indices, values, row, matrix, shift, at, sums)
        at += registers * WIDTH
