"""The table at equal bytes: what every method keeps within each budget, and where a rival is ahead of CSR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from csr_hf.evaluation.intervals import half_width
from csr_hf.evaluation.row import Row

_OWN = "CSR"


class Kept(NamedTuple):
    """What a method keeps in a setting, as the mean over tasks."""

    size: int
    """Bytes of a document."""
    retention: float
    width: float
    """Half the width of the 95 % confidence interval; 0 where there is none."""


@dataclass(frozen=True)
class BudgetTable:
    """The largest setting of every method within each budget of bytes."""

    budgets: list[int]
    """Ascending."""
    lines: dict[str, list[Kept | None]]
    """Method -> its setting within each budget; None where it has none."""

    def to_cells(self, emphasize: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
        """Make header and lines, with true bytes in brackets where a budget is not used up.

        A setting that serves several budgets stands once.

        Args:
            emphasize: marks the best figures of each budget, as far as their digits tell.
        """
        best = [self._find_best(place) for place in range(len(self.budgets))]
        body = []
        for method, found in self.lines.items():
            cells = [method]
            for place, kept in enumerate(found):
                is_new = kept is not None and (place == 0 or kept != found[place - 1])
                if kept is None or not is_new:
                    cells.append("")
                    continue
                figure = f"{kept.retention:.3f}"
                figure = emphasize(figure) if figure == best[place] else figure
                cells.append(figure if kept.size == self.budgets[place] else f"{figure} ({kept.size:,})")
            body.append(cells)
        return ["method", *(f"{budget:,} bytes" for budget in self.budgets)], body

    def describe_rivals(self) -> str:
        """Say at which budgets which rival is ahead of CSR by more than half the width of either interval."""
        ahead: dict[str, list[int]] = {}
        own = [found for method, found in self.lines.items() if method.startswith(_OWN)]
        for place, budget in enumerate(self.budgets):
            known = [found[place] for found in own]
            best = max((kept for kept in known if kept is not None), key=lambda kept: kept.retention, default=None)
            for method, found in self.lines.items():
                rival = found[place]
                if best is None or rival is None or method.startswith(_OWN):
                    continue
                if rival.retention - best.retention > max(rival.width, best.width):
                    ahead.setdefault(method, []).append(budget)
        if not own:
            return ""
        if not ahead:
            return "At no budget is a rival ahead of CSR by more than half the width of the interval."
        shown = "; ".join(f"{method} within {join_numbers(sizes)} bytes" for method, sizes in ahead.items())
        return f"Ahead of CSR by more than half the width of the interval: {shown}."

    def _find_best(self, place: int) -> str:
        known = [found[place] for found in self.lines.values()]
        return f"{max((kept.retention for kept in known if kept is not None), default=0.0):.3f}"


def make_budget_table(rows: Sequence[Row], budgets: Sequence[int]) -> BudgetTable:
    """Make the table of the first metric of each task, as the mean over tasks.

    Args:
        rows: of all tasks; a setting that was not measured on each of them is left out.
        budgets: bytes of a document.
    """
    main = {row.task: row.metric for row in reversed(rows)}
    settings: dict[tuple[str, int | None, int], list[Row]] = {}
    for row in rows:
        if row.metric == main[row.task]:
            settings.setdefault((row.method, row.k, row.bytes_per_vector), []).append(row)
    by_method: dict[str, list[Kept]] = {}
    for (method, _, size), found in settings.items():
        if len(found) == len(main):
            by_method.setdefault(method, []).append(_average(size, found))
    wanted = sorted(set(budgets))
    lines = {
        method: [max((kept for kept in known if kept.size <= budget), default=None) for budget in wanted]
        for method, known in by_method.items()
    }
    return BudgetTable(wanted, {method: found for method, found in lines.items() if any(found)})


def join_numbers(numbers: Sequence[int]) -> str:
    """Write numbers in order, with an "and" before the last."""
    *others, last = [f"{number:,}" for number in sorted(set(numbers))]
    return f"{', '.join(others)} and {last}" if others else last


def _average(size: int, rows: Sequence[Row]) -> Kept:
    """Average retention over tasks, whose intervals are independent."""
    widths = [half_width(row.retention_interval) for row in rows]
    return Kept(size, sum(row.retention for row in rows) / len(rows), math.hypot(*widths) / len(rows))
