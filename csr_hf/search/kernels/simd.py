"""Add up table entries over the half bytes of many documents at once: byte shuffles look up 64 entries in one go.

A table of 16 entries of a byte fits a vector register, and the processor's byte shuffle is a look-up in it: the "fast
scan" of product quantisation (André, Kermarrec, Le Scouarnec, VLDB 2015) with signs of four dimensions for a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.plumbing.jit import jit, processor_features

HIGHEST = 127
"""Entry of a table, at most: two of them fit in a byte."""
ROOM = 64
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

    Sums need 16 bits, so those of documents with even and odd numbers are kept apart until the end.
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
        """Entries of both halves of each code, added up: those of even documents, and of odd ones."""
        builder, half = self.builder, self.all(self.codes, 15)
        shifted = builder.lshr(builder.bitcast(codes, self.sums), self.all(self.sums, 4))
        entries = builder.add(
            builder.call(self.shuffle, [lower, builder.and_(codes, half)]),
            builder.call(self.shuffle, [upper, builder.and_(builder.bitcast(shifted, self.codes), half)]),
        )
        pairs = builder.bitcast(entries, self.sums)
        return builder.and_(pairs, self.all(self.sums, 255)), builder.lshr(pairs, self.all(self.sums, 8))

    def any_at_least(self, sums: list[Any], least: Any) -> Any:
        """Whether any of some registers of sums reaches a number."""
        builder = self.builder
        one = builder.insert_element(ir.Constant(self.sums, ir.Undefined), least, _WORD(0))
        every = builder.shuffle_vector(one, one, self.all(ir.VectorType(_WORD, self.sums.count), 0))
        first, second = (builder.icmp_unsigned(">=", own, every) for own in sums)
        bits = builder.bitcast(builder.or_(first, second), ir.IntType(self.sums.count))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    def store(self, even: Any, odd: Any, pointer: Any) -> None:
        """Write sums in order of the documents."""
        order = [lane // 2 + self.width // 2 * (lane % 2) for lane in range(self.width)]
        joined = self.builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(_WORD, self.width), order))
        self.builder.store(joined, self.builder.bitcast(pointer, joined.type.as_pointer())).align = 2


def _lookup(shuffle: str, width: int, several: int) -> Any:
    """An intrinsic that adds up `several` times `width` documents, and writes from a place of `sums` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, tables, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 5)
        )
        _, first, stride, _, row, _, place, least = arguments
        lanes, whole = _Lanes(builder, shuffle, width), stride.type
        zero = lanes.all(lanes.sums, 0)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(several)]
        size = cgutils.unpack_tuple(builder, tables.shape)[1]
        places, own = builder.udiv(size, whole(32)), builder.gep(tables.data, [builder.mul(row, size)])
        with cgutils.for_range(builder, places) as loop:
            entry = builder.gep(own, [builder.mul(loop.index, whole(32))])
            lower, upper = lanes.table(entry), lanes.table(builder.gep(entry, [whole(16)]))
            start = builder.gep(planes.data, [builder.add(first, builder.mul(loop.index, stride))])
            for number, kept in enumerate(totals):
                codes = lanes.load(builder.gep(start, [whole(number * width)]), lanes.codes)
                for total, more in zip(kept, lanes.found(codes, lower, upper), strict=True):
                    builder.store(builder.add(builder.load(total), more), total)
        reached = ir.Constant(ir.IntType(1), 0)
        for number, kept in enumerate(totals):
            even, odd = (builder.load(total) for total in kept)
            pointer = builder.gep(sums.data, [builder.add(place, whole(number * width))])
            lanes.store(even, odd, pointer)
            reached = builder.or_(reached, lanes.any_at_least([even, odd], least))
        return reached

    def typed(
        typing_context: Any,
        planes: Any,
        first: Any,
        stride: Any,
        tables: Any,
        row: Any,
        sums: Any,
        place: Any,
        least: Any,
    ) -> Any:
        numbers = types.int64, types.int64
        return types.boolean(planes, *numbers, tables, types.int64, sums, types.int64, types.uint16), generate

    return intrinsic(typed)


@jit()
def add_plainly(
    planes: np.ndarray,
    first: int,
    length: int,
    tables: np.ndarray,
    row: int,
    sums: np.ndarray,
    begin: int,
    least: np.uint16,
) -> bool:
    """`add_entries` for processors without a byte shuffle that is known here: one entry after the other."""
    sums[begin : begin + length] = 0
    for place in range(tables.shape[1] // 32):
        lower, upper = tables[row, 32 * place : 32 * place + 16], tables[row, 32 * place + 16 : 32 * place + 32]
        codes = planes[first + place * length : first + (place + 1) * length]
        for at in range(length):
            sums[begin + at] += np.uint16(lower[codes[at] & 15]) + np.uint16(upper[codes[at] >> 4])
    for at in range(length):
        if sums[begin + at] >= least:
            return True
    return False


_present = _shuffles()
SHUFFLE = _present[0] if _present else None
"""The widest byte shuffle, and its width; None: entries are looked up one after the other."""
# Where there are fewer than three widths, the narrowest stands for those that are missing.
(_NAME, _WIDTH), (_MIDDLE_NAME, _MIDDLE), (_SMALL_NAME, _SMALL) = (_present + 3 * (_present[-1:] or [("", 16)]))[:3]
_add_one, _add_two = _lookup(_NAME, _WIDTH, 1), _lookup(_NAME, _WIDTH, 2)
_add_middle, _add_small = _lookup(_MIDDLE_NAME, _MIDDLE, 1), _lookup(_SMALL_NAME, _SMALL, 1)


@jit()
def add_shuffled(
    planes: np.ndarray,
    first: int,
    length: int,
    tables: np.ndarray,
    row: int,
    sums: np.ndarray,
    begin: int,
    least: np.uint16,
) -> bool:
    """Add up, for every document, what tables have for its code.

    Places are numbers rather than slices of arrays: counting who refers to a slice would take as long as adding up.

    Args:
        planes: codes by place: of every place one byte of each document; uint8, with `ROOM` to read beyond.
        first: where the first place of these documents begins.
        length: documents; so many bytes a place.
        tables: of every place 16 entries for the lower half and 16 for the upper, each at most `HIGHEST` and all sums
            of them at most 65,535; uint8, shape (n, 32 * places).
        row: whose tables to use.
        sums: receives them, uint16.
        begin: where in `sums` they go; there must be room for length + ROOM of them.
        least: a sum of interest.

    Returns:
        False if no document reaches `least`; True need not mean that one does.
    """
    at, reached = 0, False
    while at < length:
        start, place = first + at, begin + at
        if length - at > _WIDTH:
            reached |= _add_two(planes, start, length, tables, row, sums, place, least)
            at += 2 * _WIDTH
        elif length - at > _MIDDLE:
            reached |= _add_one(planes, start, length, tables, row, sums, place, least)
            at += _WIDTH
        elif length - at > _SMALL:
            reached |= _add_middle(planes, start, length, tables, row, sums, place, least)
            at += _MIDDLE
        else:
            reached |= _add_small(planes, start, length, tables, row, sums, place, least)
            at += _SMALL
    return reached


add_entries = add_shuffled if SHUFFLE else add_plainly
