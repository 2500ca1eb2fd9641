"""Compiled loops of scalar quantization: values to levels in bytes, and back."""

from __future__ import annotations

import numpy as np

from csr_hf.plumbing.jit import from_half, frozen, jit

SCALE_BYTES = 2
"""A float16 in front of the levels."""
SHARED = 16
"""Bytes of two axes that are read at once."""
_LARGEST = 127
# The 16 levels with the least squared error for normal values of variance one (Max 1960, table I), the upper half.
_UPPER = np.array([0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6180, 2.0690, 2.7326])
STEPS = (4 / _LARGEST, float(_UPPER[-1]) / _LARGEST)
"""What a level is worth for values of variance one: of 256 levels, up to four deviations, and of 16."""
LEVELS = frozen(np.rint(np.concatenate([-_UPPER[::-1], _UPPER]) / STEPS[1]), np.int8)
"""The 16 levels."""
_BOUNDS = frozen((LEVELS[1:].astype(np.float64) + LEVELS[:-1]) / 2, np.float32)


@jit()
def write_levels(values: np.ndarray, whole: int, codes: np.ndarray, scales: np.ndarray) -> None:
    """Round values to levels, each row by a scale of its own.

    Args:
        values: along the axes, in levels, float32, shape (n, whole + 2 * half).
        whole: axes that take a byte.
        codes: receives, behind `SCALE_BYTES`, `whole` bytes, and `half` bytes of two axes, uint8, shape (n,
            SCALE_BYTES + whole + half).
        scales: receives what levels are multiplied by, float32, shape (n,).
    """
    n, count = values.shape
    half = (count - whole) // 2
    levels = np.empty(count, np.float32)
    for row in range(n):
        total = np.float64(0)
        for axis in range(count):
            step = STEPS[0] if axis < whole else STEPS[1]
            total += (np.float64(values[row, axis]) * step) ** 2
        size = np.sqrt(total / count)
        inverse = np.float32(1 / size) if size > 1e-30 else np.float32(0)
        for axis in range(whole):
            levels[axis] = min(max(np.rint(values[row, axis] * inverse), -_LARGEST), _LARGEST)
            codes[row, SCALE_BYTES + axis] = np.uint8(np.int8(levels[axis]))
        for place in range(half):
            code = 0
            for side in range(2):
                axis = whole + side * half + place
                value, found = values[row, axis] * inverse, 0
                for bound in range(_BOUNDS.shape[0]):
                    found += int(value > _BOUNDS[bound])
                levels[axis] = LEVELS[found]
                code |= found << (4 * side)
            codes[row, SCALE_BYTES + whole + place] = np.uint8(code)
        # The scale with which the levels are nearest to the values.
        along, own = np.float64(0), np.float64(0)
        for axis in range(count):
            step = (STEPS[0] if axis < whole else STEPS[1]) ** 2
            along += np.float64(values[row, axis]) * levels[axis] * step
            own += np.float64(levels[axis]) * levels[axis] * step
        scales[row] = along / own if own > 0 and inverse > 0 else 0.0


@jit(inline="always")
def read_scale(codes: np.ndarray, first: int) -> np.float32:
    """Read the scale of a row that begins at a byte of codes, uint8, flat."""
    return np.float32(from_half(np.uint16(np.int64(codes[first]) + 256 * np.int64(codes[first + 1]))))


@jit()
def read_levels(codes: np.ndarray, whole: int, values: np.ndarray) -> None:
    """Read what `write_levels` wrote: levels times scales, float32, shape (n, whole + 2 * half)."""
    half, flat = (values.shape[1] - whole) // 2, codes.reshape(-1)
    for row in range(codes.shape[0]):
        scale = read_scale(flat, row * codes.shape[1])
        for axis in range(whole):
            values[row, axis] = scale * np.float32(np.int8(codes[row, SCALE_BYTES + axis]))
        for place in range(half):
            code = codes[row, SCALE_BYTES + whole + place]
            values[row, whole + place] = scale * np.float32(LEVELS[code & 15])
            values[row, whole + half + place] = scale * np.float32(LEVELS[code >> 4])
