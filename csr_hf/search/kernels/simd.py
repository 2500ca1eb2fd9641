"""Instructions of the processor that numba does not name, for many numbers at once.

Table entries are added up over the half bytes of many documents: byte shuffles look up 64 entries in one go. A table
of 16 entries of a byte fits a vector register, and the processor's byte shuffle is a look-up in it: the "fast scan" of
product quantization (André, Kermarrec, Le Scouarnec, VLDB 2015) with signs of four dimensions for a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.plumbing.jit import LINE, jit, processor_features

HIGHEST = 127
"""Entry of a table, at most: two of them fit in a byte."""
BLOCK = 64
"""Documents whose codes lie together."""
ROOM = BLOCK
"""Bytes that may be read, and sums that may be written, beyond the last document."""
_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_SHUFFLES = (
    ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 64),
    ("avx2", "llvm.x86.avx2.pshuf.b", 32),
    ("ssse3", "llvm.x86.ssse3.pshuf.b.128", 16),
)


def _shuffles() -> list[tuple[str, int]]:
    """Byte shuffles of the processor that numba compiles for, and their widths in bytes, the widest first."""
    present = processor_features()
    return [(name, width) for feature, name, width in _SHUFFLES if feature in present]


class _Lanes:
    """LLVM instructions on one register of codes: a byte each of `width` documents.

    Sums need 16 bits: kept are those of documents with odd numbers, and those of two neighbors in one number, modulo
    2**16, which the former are taken from in the end.
    """

    def __init__(self, builder: Any, shuffle: str, width: int) -> None:
        self.builder, self.width = builder, width
        self.codes, self.sums = ir.VectorType(_BYTE, width), ir.VectorType(_SHORT, width // 2)
        kind = ir.FunctionType(self.codes, [self.codes, self.codes])
        self.shuffle = cgutils.get_or_insert_function(builder.module, kind, shuffle)

    def all(self, kind: ir.VectorType, number: int) -> ir.Constant:
        """The same number in every lane."""
        return ir.Constant(kind, [number] * kind.count)

    def load(self, pointer: Any, kind: ir.VectorType) -> Any:
        """What begins at a byte, wherever that is."""
        loaded = self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()))
        loaded.align = 1
        return loaded

    def table(self, pointer: Any) -> Any:
        """16 entries, repeated: every 16 bytes of the register are looked up on their own."""
        entries = self.load(pointer, ir.VectorType(_BYTE, 16))
        lanes = ir.Constant(ir.VectorType(_WORD, self.width), [lane % 16 for lane in range(self.width)])
        return self.builder.shuffle_vector(entries, entries, lanes)

    def found(self, codes: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
        """Entries of both halves of each code, added up: those of two neighbors in a number, and those of odd ones."""
        builder, half = self.builder, self.all(self.codes, 15)
        shifted = builder.lshr(builder.bitcast(codes, self.sums), self.all(self.sums, 4))
        entries = builder.add(
            builder.call(self.shuffle, [lower, builder.and_(codes, half)]),
            builder.call(self.shuffle, [upper, builder.and_(builder.bitcast(shifted, self.codes), half)]),
        )
        pairs = builder.bitcast(entries, self.sums)
        return pairs, builder.lshr(pairs, self.all(self.sums, 8))

    def store(self, pairs: Any, odd: Any, pointer: Any) -> None:
        """Write sums in order of the documents."""
        even = self.builder.sub(pairs, self.builder.shl(odd, self.all(self.sums, 8)))
        order = [lane // 2 + self.width // 2 * (lane % 2) for lane in range(self.width)]
        joined = self.builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(_WORD, self.width), order))
        self.builder.store(joined, self.builder.bitcast(pointer, joined.type.as_pointer())).align = 2


def _ask(builder: Any, pointer: Any) -> None:
    """Ask for the cache line of a byte."""
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _WORD, _WORD, _WORD])
    builder.call(
        builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind),
        [pointer, _WORD(0), _WORD(3), _WORD(1)],
    )


def _lookup(lanes: int) -> Any:
    """An intrinsic that adds up so many documents, by the widest shuffle that is no wider."""
    shuffle, width = next(((name, width) for name, width in _present if width <= lanes), ("", lanes))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, tables, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 5)
        )
        _, first, stride, _, row, _, place, ahead = arguments
        register, whole = _Lanes(builder, shuffle, width), stride.type
        zero = register.all(register.sums, 0)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(lanes // width)]
        size = cgutils.unpack_tuple(builder, tables.shape)[1]
        places, own = builder.udiv(size, whole(32)), builder.gep(tables.data, [builder.mul(row, size)])
        with cgutils.for_range(builder, places) as loop:
            entry = builder.gep(own, [builder.mul(loop.index, whole(32))])
            lower, upper = register.table(entry), register.table(builder.gep(entry, [whole(16)]))
            start = builder.gep(planes.data, [builder.add(first, builder.mul(loop.index, stride))])
            _ask(builder, builder.gep(planes.data, [builder.add(ahead, builder.mul(loop.index, whole(LINE)))]))
            for number, kept in enumerate(totals):
                codes = register.load(builder.gep(start, [whole(number * width)]), register.codes)
                for total, more in zip(kept, register.found(codes, lower, upper), strict=True):
                    builder.store(builder.add(builder.load(total), more), total)
        for number, kept in enumerate(totals):
            pointer = builder.gep(sums.data, [builder.add(place, whole(number * width))])
            pairs, odd = (builder.load(total) for total in kept)
            register.store(pairs, odd, pointer)
        return context.get_dummy_value()

    def typed(
        typing_context: Any,
        planes: Any,
        first: Any,
        stride: Any,
        tables: Any,
        row: Any,
        sums: Any,
        place: Any,
        ahead: Any,
    ) -> Any:
        numbers = types.int64, types.int64
        return types.void(planes, *numbers, tables, types.int64, sums, *numbers), generate

    return intrinsic(typed)


@jit()
def add_plainly(
    planes: np.ndarray, first: int, length: int, tables: np.ndarray, row: int, sums: np.ndarray, ahead: int
) -> None:
    """`add_entries` for processors without a byte shuffle that is known here: one entry after the other."""
    sums[:length] = 0
    places = tables.shape[1] // 32
    for begin in range(0, length, BLOCK):
        stride = min(BLOCK, length - begin)
        for place in range(places):
            lower, upper = tables[row, 32 * place : 32 * place + 16], tables[row, 32 * place + 16 : 32 * place + 32]
            start = first + places * begin + stride * place
            for at in range(stride):
                code = planes[start + at]
                sums[begin + at] += np.uint16(lower[code & 15]) + np.uint16(upper[code >> 4])


def _estimate(
    typing_context: Any,
    sums: Any,
    place: Any,
    factors: Any,
    shifts: Any,
    row: Any,
    base: Any,
    step: Any,
    total: Any,
    bound: Any,
    estimates: Any,
) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, factors, shifts, estimates = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2, 3, 9)
        )
        halves, words = ir.VectorType(_SHORT, BLOCK), ir.VectorType(_WORD, BLOCK)
        floats, first = ir.VectorType(ir.FloatType(), BLOCK), _WORD(0)

        def load(array: Any, at: Any) -> Any:
            loaded = builder.load(builder.bitcast(builder.gep(array.data, [at]), halves.as_pointer()))
            loaded.align = 2
            return builder.zext(loaded, words)

        def every(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(floats, ir.Undefined), number, first)
            return builder.shuffle_vector(one, one, ir.Constant(words, [0] * BLOCK))

        def widened(array: Any) -> Any:
            return builder.bitcast(builder.shl(load(array, arguments[4]), ir.Constant(words, [16] * BLOCK)), floats)

        base, step, total, bound = (every(number) for number in arguments[5:9])
        found = builder.fsub(builder.fmul(step, builder.uitofp(load(sums, arguments[1]), floats)), total)
        found = builder.fadd(builder.fadd(base, widened(shifts)), builder.fmul(widened(factors), found))
        builder.store(found, builder.bitcast(estimates.data, floats.as_pointer())).align = 4
        return builder.bitcast(builder.fcmp_ordered(">=", found, bound), ir.IntType(BLOCK))

    numbers = [types.float32] * 4
    kind = types.uint64(sums, types.intp, factors, shifts, types.intp, *numbers, estimates)
    return kind, generate


estimate: Any = intrinsic(_estimate)
"""Estimate the scores of `BLOCK` documents: base + shift + factor * (step * sum - total).

Takes sums, uint16, and the place of the first; factors and shifts, upper halves of float32, and the row of the first;
base, step and total of the query, a bound, and room for the estimates, float32. Bit i of the uint64 that it returns
tells that the i-th reaches the bound.
"""
_present = _shuffles()
SHUFFLE = _present[0] if _present else None
"""The widest byte shuffle, and its width; None: entries are looked up one after the other."""
_add_block, _add_half, _add_quarter = _lookup(BLOCK), _lookup(BLOCK // 2), _lookup(BLOCK // 4)


@jit()
def add_shuffled(
    planes: np.ndarray, first: int, length: int, tables: np.ndarray, row: int, sums: np.ndarray, ahead: int
) -> None:
    """Add up, for every document of a partition, what tables have for its code.

    Places are numbers rather than slices of arrays: counting who refers to a slice would take as long as adding up.

    Args:
        planes: codes in blocks, and in a block by place: of every place one byte of each document; uint8, with `ROOM`
            to read beyond.
        first: where the first place of these documents begins.
        length: documents: blocks of `BLOCK`, and a last one of those that are left.
        tables: of every place 16 entries for the lower half and 16 for the upper, each at most `HIGHEST` and all sums
            of them at most 65,535; uint8, shape (n, 32 * places).
        row: whose tables to use.
        sums: receives them, uint16, shape (length + ROOM or more,).
        ahead: byte of `planes` from which on as many are asked for as are read, for what is to be added up next.
    """
    places = tables.shape[1] // 32
    for at in range(0, length, BLOCK):
        start, stride, next_start = first + places * at, min(BLOCK, length - at), ahead + places * at
        if stride > BLOCK // 2:
            _add_block(planes, start, stride, tables, row, sums, at, next_start)
        elif stride > BLOCK // 4:
            _add_half(planes, start, stride, tables, row, sums, at, next_start)
        else:
            _add_quarter(planes, start, stride, tables, row, sums, at, next_start)


add_entries = add_shuffled if SHUFFLE else add_plainly
