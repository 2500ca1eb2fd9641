"""A command with what it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Invocation:
    """A command with what it was given."""

    name: str
    """Name of the command."""
    options: list[Any]
    """Settings of the command, one for each of its kinds."""
    keys: dict[str, Any]
    """Keys of the recipe that were given as flags, dotted."""
    device: str | None
    trust_remote_code: bool
    """Run code of the backbone's repository."""
    debug: bool = False
    """Show tracebacks, warnings of libraries and a longer log."""
    no_progress: bool = False
    """Draw no progress bars."""
    json: bool = False
    """Write the result as one JSON document on stdout, all else on stderr."""
    quiet: bool = False
    """Show errors and the result alone."""
