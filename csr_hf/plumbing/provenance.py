"""Where a result comes from: the command, the machine and the versions of what it depends on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from typing import Any

_VERSIONED = ("csr_hf", "torch", "transformers", "sentence-transformers", "datasets", "accelerate", "numpy", "numba")
_command = ""


def record_command(command: str) -> None:
    """Keep the command line of this process for the results that it writes."""
    global _command
    _command = command


def recorded_command() -> str:
    """Return the command line of this process, empty when Python was called."""
    return _command


def forget_flag(flag: str) -> None:
    """Leave a flag out of the recorded command: what it asks for is done, and must not be done again on going on."""
    record_command(re.sub(rf" {flag}(?= |$)", "", _command))


def provenance() -> dict[str, Any]:
    """Return `command` (empty when Python was called), `machine` and `versions`, as results record them."""
    return {"command": _command, "machine": machine(), "versions": versions()}


def machine() -> str:
    """Describe this machine in a line, without its name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Return the versions of Python and of installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
