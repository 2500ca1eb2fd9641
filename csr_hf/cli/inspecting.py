"""The commands that look at what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csr_hf.cli.output import print_line
from csr_hf.cli.report import Report

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation


def info(called: Invocation) -> Report:
    """Describe what a path holds."""
    from csr_hf.runs.describe import examine

    described = examine(called.options[0].path)

    def show() -> None:
        for line in described.lines:
            print_line(line)

    return Report(described.facts, show)
