"""Sums of table entries over the half bytes of many documents at once: byte shuffles look up 64 entries in one go.

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

from csr_hf.jit import jit, processor_features

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


def _shuffle() -> tuple[str, int] | None:
    """The widest byte shuffle of the processor that numba compiles for, and its width in bytes; None without any."""
    present = processor_features()
    return next(((name, width) for feature, name, width in _SHUFFLES if feature in present), None)


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

    def store(self, even: Any, odd: Any, pointer: Any) -> None:
        """Write sums in order of the documents."""
        order = [lane // 2 + self.width // 2 * (lane % 2) for lane in range(self.width)]
        joined = self.builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(_WORD, self.width), order))
        self.builder.store(joined, self.builder.bitcast(pointer, joined.type.as_pointer())).align = 2


def _lookup(shuffle: str, width: int, several: int) -> Any:
    """An intrinsic that adds up `several` times `width` documents, and writes from a place of `sums` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, tables, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 4)
        )
        _, first, stride, _, _, place = arguments
        lanes, whole = _Lanes(builder, shuffle, width), stride.type
        zero = lanes.all(lanes.sums, 0)
        totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(several)]
        places = builder.udiv(cgutils.unpack_tuple(builder, tables.shape)[0], whole(32))
        with cgutils.for_range(builder, places) as loop:
            entry = builder.gep(tables.data, [builder.mul(loop.index, whole(32))])
            lower, upper = lanes.table(entry), lanes.table(builder.gep(entry, [whole(16)]))
            start = builder.gep(planes.data, [builder.add(first, builder.mul(loop.index, stride))])
            for number, kept in enumerate(totals):
                codes = lanes.load(builder.gep(start, [whole(number * width)]), lanes.codes)
                for total, more in zip(kept, lanes.found(codes, lower, upper), strict=True):
                    builder.store(builder.add(builder.load(total), more), total)
        for number, (even, odd) in enumerate(totals):
            pointer = builder.gep(sums.data, [builder.add(place, whole(number * width))])
            lanes.store(builder.load(even), builder.load(odd), pointer)
        return context.get_dummy_value()

    def typed(typing_context: Any, planes: Any, first: Any, stride: Any, tables: Any, sums: Any, place: Any) -> Any:
        return types.void(planes, types.int64, types.int64, tables, sums, types.int64), generate

    return intrinsic(typed)


@jit()
def add_plainly(planes: np.ndarray, first: int, length: int, tables: np.ndarray, sums: np.ndarray) -> None:
    """`add_entries` for processors without a byte shuffle that is known here: one entry after the other."""
    sums[:length] = 0
    for place in range(tables.shape[0] // 32):
        lower, upper = tables[32 * place : 32 * place + 16], tables[32 * place + 16 : 32 * place + 32]
        codes = planes[first + place * length : first + (place + 1) * length]
        for at in range(length):
            sums[at] += np.uint16(lower[codes[at] & 15]) + np.uint16(upper[codes[at] >> 4])


SHUFFLE = _shuffle()
"""What look-ups are made with; None: one after the other."""
_NAME, _WIDTH = SHUFFLE or ("", 16)
_add_one, _add_two = _lookup(_NAME, _WIDTH, 1), _lookup(_NAME, _WIDTH, 2)


@jit()
def add_shuffled(planes: np.ndarray, first: int, length: int, tables: np.ndarray, sums: np.ndarray) -> None:
    """Add up, for every document, what tables have for its code.

    Args:
        planes: codes by place: of every place one byte of each document; uint8, with `ROOM` to read beyond.
        first: where the first place of these documents begins.
        length: documents; so many bytes a place.
        tables: of every place 16 entries for the lower half and 16 for the upper, each at most `HIGHEST` and all sums
            of them at most 65,535; uint8, shape (32 * places,).
        sums: receives them, uint16, shape (at least length + ROOM,).
    """
    at = 0
    while at < length:
        if length - at > _WIDTH:
            _add_two(planes, first + at, length, tables, sums, at)
            at += 2 * _WIDTH
        else:
            _add_one(planes, first + at, length, tables, sums, at)
            at += _WIDTH


add_entries = add_shuffled if SHUFFLE else add_plainly
