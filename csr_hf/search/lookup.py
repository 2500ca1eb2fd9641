"""Sums of table entries over the half bytes of many documents at once: byte shuffles look up 64 entries in one go.

A table of 16 entries of a byte fits a vector register, and the processor's byte shuffle is a look-up in it: the "fast
scan" of product quantisation (André, Kermarrec, Le Scouarnec, VLDB 2015) with signs of four dimensions for a code.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from csr_hf.jit import jit

HIGHEST = 127
"""Entry of a table, at most: two of them fit in a byte."""
ROOM = 64
"""Bytes that may be read, and sums that may be written, beyond the last document."""
_BYTE, _SHORT = ir.IntType(8), ir.IntType(16)
_SHUFFLES = (
    ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 64),
    ("avx2", "llvm.x86.avx2.pshuf.b", 32),
    ("ssse3", "llvm.x86.ssse3.pshuf.b.128", 16),
)


def _shuffle() -> tuple[str, int] | None:
    """The widest byte shuffle of the processor that numba compiles for, and its width in bytes; None without any."""
    name, features = getattr(config, "CPU_NAME", None), getattr(config, "CPU_FEATURES", None)
    if name or features is not None:
        present = {feature for feature in (features or "").split(",") if feature.startswith("+")}
    else:
        present = {f"+{feature}" for feature, has in llvmlite.binding.get_host_cpu_features().items() if has}
    return next(((name, width) for feature, name, width in _SHUFFLES if f"+{feature}" in present), None)


def _lookup(shuffle: str, width: int, several: int) -> Any:
    """An intrinsic that adds up `several` times `width` documents, and writes from a place of `sums` on."""
    bytes_of, shorts = ir.VectorType(_BYTE, width), ir.VectorType(_SHORT, width // 2)
    half = ir.Constant(bytes_of, [15] * width)
    low, eight = ir.Constant(shorts, [255] * (width // 2)), ir.Constant(shorts, [8] * (width // 2))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, tables, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 3, 4)
        )
        _, first, stride, _, _, place = arguments
        count = builder.udiv(cgutils.unpack_tuple(builder, tables.shape)[0], ir.Constant(stride.type, 32))
        kind = ir.FunctionType(bytes_of, [bytes_of, bytes_of])
        function = cgutils.get_or_insert_function(builder.module, kind, shuffle)
        totals = [
            [cgutils.alloca_once_value(builder, ir.Constant(shorts, [0] * (width // 2))) for _ in range(2)]
            for _ in range(several)
        ]

        def load(start: Any) -> Any:
            loaded = builder.load(builder.bitcast(start, bytes_of.as_pointer()))
            loaded.align = 1
            return loaded

        def table(at: Any) -> Any:
            """16 entries, repeated over the register: each part of it looks up on its own."""
            sixteen = ir.VectorType(_BYTE, 16)
            loaded = builder.load(builder.bitcast(builder.gep(tables.data, [at]), sixteen.as_pointer()))
            loaded.align = 1
            repeat = ir.Constant(ir.VectorType(ir.IntType(32), width), [lane % 16 for lane in range(width)])
            return builder.shuffle_vector(loaded, loaded, repeat)

        with cgutils.for_range(builder, count) as loop:
            entry = builder.mul(loop.index, ir.Constant(stride.type, 32))
            lower = table(entry)
            upper = table(builder.add(entry, ir.Constant(stride.type, 16)))
            start = builder.add(first, builder.mul(loop.index, stride))
            for number, (even, odd) in enumerate(totals):
                codes = load(builder.gep(planes.data, [builder.add(start, ir.Constant(stride.type, number * width))]))
                high = builder.bitcast(
                    builder.lshr(builder.bitcast(codes, shorts), ir.Constant(shorts, [4] * (width // 2))), bytes_of
                )
                found = builder.add(
                    builder.call(function, [lower, builder.and_(codes, half)]),
                    builder.call(function, [upper, builder.and_(high, half)]),
                )
                pairs = builder.bitcast(found, shorts)
                builder.store(builder.add(builder.load(even), builder.and_(pairs, low)), even)
                builder.store(builder.add(builder.load(odd), builder.lshr(pairs, eight)), odd)
        order = [lane // 2 + (width // 2) * (lane % 2) for lane in range(width)]
        both = ir.Constant(ir.VectorType(ir.IntType(32), width), order)
        for number, (even, odd) in enumerate(totals):
            joined = builder.shuffle_vector(builder.load(even), builder.load(odd), both)
            at = builder.gep(sums.data, [builder.add(place, ir.Constant(place.type, number * width))])
            stored = builder.store(joined, builder.bitcast(at, joined.type.as_pointer()))
            stored.align = 2
        return context.get_dummy_value()

    def typed(typing_context: Any, planes: Any, first: Any, stride: Any, tables: Any, sums: Any, place: Any) -> Any:
        return types.void(planes, types.int64, types.int64, tables, sums, types.int64), generate

    return intrinsic(typed)


@jit()
def add_plainly(planes: np.ndarray, first: int, length: int, tables: np.ndarray, sums: np.ndarray) -> None:
    """`add_entries` for processors without a byte shuffle that is known here, a tenth as fast."""
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
