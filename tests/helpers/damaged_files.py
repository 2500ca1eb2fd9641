"""Load damaged copies of a file of codes, in a process of its own: a kernel that left its arrays would end it."""

import subprocess
import sys

_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import csr_hf

path, kind, step, copies = Path(sys.argv[1]), getattr(csr_hf, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
raw = path.read_bytes()
rng, refused, read = np.random.default_rng(0), 0, 0
damaged = [raw[:size] for size in range(0, len(raw), step)]
for _ in range(copies):
    bad = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        # Every other byte is one of the header, which says how all others are read.
        bad[rng.integers(len(bad)) if rng.random() < 0.5 else rng.integers(8, 300)] = rng.integers(256)
    damaged.append(bytes(bad))
for content in damaged:
    path.write_bytes(content)
    try:
        codes = kind.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\\n" not in str(error), error
        refused += 1
        continue
    {use}
    read += 1
print(refused, read)
"""


def load_damaged(path, kind, use, step, copies):
    """Load copies of a file that are cut or have a few other bytes, and use those that load.

    Args:
        path: of the file, which is written over.
        kind: name of a public class with `load`.
        use: a statement about `codes`.
        step: bytes between two cuts.
        copies: with other bytes.

    Returns:
        how many were refused, in one line that names the file, and how many were read.
    """
    call = [sys.executable, "-c", _SCRIPT.replace("{use}", use), str(path), kind, str(step), str(copies)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    refused, read = map(int, done.stdout.split())
    return refused, read
