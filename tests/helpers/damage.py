"""Damaged copies of files and arrays, made by the same rules for everything that is loaded from a disk."""

import json
import subprocess
import sys

import numpy as np

from tests.helpers.scripts import ROOT

VALUES = [None, -1, 0, 1, 2**31, 2**70, 1.5, "x", [], {}, [1, 2], True]
"""What may stand where JSON should hold something else."""


def change_numbers(rng, array, count):
    """Copies of an array with one other number each: random ones, and the extremes of its type."""
    if not array.size:
        return
    kind = array.dtype.kind
    if kind in "iu":
        limits = np.iinfo(array.dtype)
        values = [limits.min, limits.max, limits.max // 2, 0]
    elif kind == "f":
        values = [np.nan, np.inf, -np.inf, np.finfo(array.dtype).max, np.finfo(array.dtype).tiny, -1, 0]
    else:
        values = [True, False]
    for number in range(count):
        changed = array.copy()
        place = rng.integers(array.size) if number % 3 else (0, array.size - 1)[number // 3 % 2]
        value = values[number % len(values)] if number % 2 or kind == "b" else rng.integers(100)
        with np.errstate(all="ignore"):
            changed.reshape(-1)[place] = value
        yield f"[{place}] = {value}", changed


def damage_arrays(rng, arrays, count):
    """Other arrays for one file: numbers, types, shapes, and two exchanged."""
    for name, array in arrays.items():
        for label, changed in change_numbers(rng, array, count):
            yield f"{name}{label}", {**arrays, name: changed}
        for dtype in ("u1", "i8", "f4", "f8", "i4"):
            with np.errstate(all="ignore"):
                yield f"{name} as {dtype}", {**arrays, name: array.astype(dtype)}
        for label, shaped in (("half", array[: len(array) // 2]), ("none", array[:0]), ("flat", array.reshape(-1))):
            yield f"{name}: {label}", {**arrays, name: shaped}
        if array.ndim == 2 and array.shape[1] > 1:
            yield f"{name}: narrow", {**arrays, name: array[:, :1]}
            yield f"{name}: turned", {**arrays, name: np.ascontiguousarray(array.T)}
        yield f"{name}: twice", {**arrays, name: np.concatenate([array, array])}
        yield f"{name}: missing", {key: each for key, each in arrays.items() if key != name}
        for other in arrays:
            if other > name:
                yield f"{name} and {other} exchanged", {**arrays, name: arrays[other], other: array}
    yield "one more", {**arrays, "more": np.zeros(3)}


def damage_bytes(rng, raw, count, head=600):
    """The bytes of a file, cut at five places, and with one other byte each, every second one near the start."""
    for size in np.linspace(0, len(raw) - 1, 5).astype(int):
        yield f"cut at {size}", raw[:size]
    for number in range(count):
        place, value = int(rng.integers(len(raw) if number % 2 else min(len(raw), head))), int(rng.integers(256))
        if raw[place] != value:
            yield f"[{place}] = {value}", raw[:place] + bytes([value]) + raw[place + 1 :]


def run_alone(call, *, timeout=3000):
    """Run a call in a process of its own, which a crash ends; the last line that it prints is JSON."""
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])
