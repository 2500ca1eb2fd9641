"""Inner products of integers of 8 or 16 bits with queries of 16 bits, many numbers at once.

The processor multiplies 16-bit numbers and adds the products of neighbors in one instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.coding.scalar_kernels import LEVELS, SHARED
from csr_hf.plumbing.jit import jit, processor_features

_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_PAIRS = (("avx512bw", "llvm.x86.avx512.pmaddw.d.512", 32), ("avx2", "llvm.x86.avx2.pmadd.wd", 16))
_SHUFFLE = "llvm.x86.ssse3.pshuf.b.128"
_NAME, LANES = next(((name, lanes) for feature, name, lanes in _PAIRS if feature in processor_features()), ("", 16))
"""Of the instruction, empty where there is none; and how many numbers `dot` multiplies at once."""


class _Sums:
    """Sums of products, in registers."""

    def __init__(self, builder: Any, count: int) -> None:
        self.builder, self.wide = builder, ir.VectorType(_SHORT, LANES)
        self.kind = ir.VectorType(_WORD, LANES // 2)
        zeros = ir.Constant(self.kind, [0] * self.kind.count)
        self.kept = [cgutils.alloca_once_value(builder, zeros) for _ in range(count)]
        self.multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.kind, [self.wide, self.wide]), _NAME
        )

    def load(self, data: Any, place: Any, kind: ir.VectorType) -> Any:
        """What begins at a place, wherever that is."""
        loaded = self.builder.load(self.builder.bitcast(self.builder.gep(data, [place]), kind.as_pointer()))
        loaded.align = 1
        return loaded

    def add(self, number: int, row: Any, query: Any) -> None:
        """Add products to one of the sums."""
        more = self.builder.call(self.multiply, [row, query])
        self.builder.store(self.builder.add(self.builder.load(self.kept[number]), more), self.kept[number])

    def write(self, sums: Any, whole: Any) -> None:
        """Write all sums."""
        kind = ir.FunctionType(_WORD, [self.kind])
        add_all = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.vector.reduce.add.v{self.kind.count}i32"
        )
        for number, total in enumerate(self.kept):
            found = self.builder.call(add_all, [self.builder.load(total)])
            self.builder.store(found, self.builder.gep(sums.data, [whole(number)]))


def _typed(typing_context: Any, rows: Any, first: Any, width: Any, queries: Any, begin: Any, sums: Any) -> Any:
    return types.void(rows, types.int64, types.int64, queries, types.int64, sums)


def _arrays(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    return [context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 5)]


def _dots(several: int) -> Any:
    """An intrinsic that multiplies a row with `several` queries that follow each other."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, queries, sums = _arrays(context, builder, signature, arguments)
        _, first, width, _, begin, _ = arguments
        whole, totals = first.type, _Sums(builder, several)
        given = ir.VectorType(rows.data.type.pointee, LANES)
        with cgutils.for_range(builder, builder.udiv(width, whole(LANES))) as loop:
            at = builder.mul(loop.index, whole(LANES))
            row = totals.load(rows.data, builder.add(first, at), given)
            row = row if given == totals.wide else builder.sext(row, totals.wide)
            for number in range(several):
                place = builder.add(builder.add(begin, at), builder.mul(width, whole(number)))
                totals.add(number, row, totals.load(queries.data, place, totals.wide))
        totals.write(sums, whole)
        return context.get_dummy_value()

    def typed(typing_context: Any, rows: Any, first: Any, width: Any, queries: Any, begin: Any, sums: Any) -> Any:
        return _typed(typing_context, rows, first, width, queries, begin, sums), generate

    return intrinsic(typed)


def _dot_shared(typing_context: Any, rows: Any, first: Any, width: Any, queries: Any, begin: Any, sums: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, queries, sums = _arrays(context, builder, signature, arguments)
        _, first, width, _, begin, _ = arguments
        whole, totals, kind = first.type, _Sums(builder, 1), ir.VectorType(_BYTE, SHARED)
        shuffle = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind, kind]), _SHUFFLE)
        levels = ir.Constant(kind, [int(level) for level in LEVELS])
        lanes = ir.Constant(ir.VectorType(_WORD, 2 * SHARED), list(range(2 * SHARED)))
        with cgutils.for_range(builder, builder.udiv(width, whole(SHARED))) as loop:
            at = builder.mul(loop.index, whole(SHARED))
            codes = totals.load(rows.data, builder.add(first, at), kind)
            place = builder.add(begin, builder.mul(at, whole(2)))
            halves = [
                builder.call(shuffle, [levels, half])
                for half in (
                    builder.and_(codes, ir.Constant(kind, [15] * SHARED)),
                    builder.lshr(codes, ir.Constant(kind, [4] * SHARED)),
                )
            ]
            if LANES == 2 * SHARED:
                halves = [builder.shuffle_vector(*halves, lanes)]
            for number, half in enumerate(halves):
                query = totals.load(queries.data, builder.add(place, whole(number * SHARED)), totals.wide)
                totals.add(0, builder.sext(half, totals.wide), query)
        totals.write(sums, whole)
        return context.get_dummy_value()

    return _typed(typing_context, rows, first, width, queries, begin, sums), generate


@jit()
def dot_plainly(rows: np.ndarray, first: int, width: int, queries: np.ndarray, begin: int, sums: np.ndarray) -> None:
    """`dot` for processors without the instruction."""
    total = np.int32(0)
    for at in range(width):
        row = np.int32(np.int8(rows[first + at])) if rows.itemsize == 1 else np.int32(rows[first + at])
        total = np.int32(total + row * np.int32(queries[begin + at]))
    sums[0] = total


@jit()
def dot_four_plainly(
    rows: np.ndarray, first: int, width: int, queries: np.ndarray, begin: int, sums: np.ndarray
) -> None:
    """`dot_four` likewise."""
    for number in range(4):
        dot_plainly(rows, first, width, queries, begin + number * width, sums[number:])


@jit()
def dot_shared_plainly(
    rows: np.ndarray, first: int, width: int, queries: np.ndarray, begin: int, sums: np.ndarray
) -> None:
    """`dot_shared` likewise."""
    total = np.int32(0)
    for block in range(0, width, SHARED):
        for at in range(SHARED):
            code, place = rows[first + block + at], begin + 2 * block + at
            lower, upper = np.int32(LEVELS[code & 15]), np.int32(LEVELS[code >> 4])
            total = np.int32(total + lower * np.int32(queries[place]) + upper * np.int32(queries[place + SHARED]))
    sums[0] = total


dot: Any = _dots(1) if _NAME else dot_plainly
"""Multiply a row with a query of int16.

Takes rows of int8, of uint8 that stand for int8, or of int16 (flat), where the row begins, and its width, a multiple
of `LANES`; queries (flat), and where one begins; and an array that receives the product, int32.
"""
dot_four: Any = _dots(4) if _NAME else dot_four_plainly
"""`dot` for four queries that follow each other."""
dot_shared: Any = intrinsic(_dot_shared) if _NAME else dot_shared_plainly
"""`dot` for bytes that hold two of `LEVELS` each: a multiple of `SHARED`. A query has the lower ones of a block of so
many bytes, then the upper."""
