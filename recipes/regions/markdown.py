"""Markdown tables, and results files by their place in the project."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from csr_hf.evaluation.results import Results, Row

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def table(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """Write a table.

    Args:
        header: names of the columns.
        lines: cells, as many as there are columns.
        left: columns that are aligned left; the others are aligned right.
    """
    rule = [":---" if number < left else "---:" for number in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def load_results(folder: str) -> Results:
    """Load `results.json` of a folder below recipes/."""
    return Results.load(RECIPES / folder)


def load_json(path: str) -> Any:
    """Load a JSON file below recipes/."""
    return json.loads((RECIPES / path).read_text(encoding="utf-8"))


def share(row: Row) -> str:
    """Show the score of the dense model, of all others the share of it that is kept."""
    return f"{row.score if row.method == 'dense' else row.retention:.3f}"


def command(line: str, width: int = 118) -> str:
    """Write a command as an indented block, broken before flags where it is long."""
    lines, current = [], ""
    for word in line.replace(" --", "\n--").split("\n"):
        if current and len(current) + len(word) > width:
            lines.append(f"{current} \\")
            current = f"    {word}"
        else:
            current = f"{current} {word}" if current else word
    return "\n".join(f"    {each}" for each in [*lines, current])
