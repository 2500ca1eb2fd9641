"""The paper's claim on retrieval time: searches through sparse codes of heads of growing hidden_dim."""

from __future__ import annotations

from statistics import median
from typing import Any

from regions.markdown import load_json, table

_PATH = "paper/results/retrieval_time.json"
_TIMED = ("multiply_seconds", "find_seconds")


def time_table() -> str:
    """Show the time of a query by sparse codes of every head and by dense vectors, and that as a share of dense."""
    written = load_json(_PATH)
    dense, *others = written["searches"]
    lines = [_line(each, dense, written["queries"]) for each in (dense, *sorted(others, key=_order))]
    header = ["vectors", "postings", "if even", "products, ms", "times dense", "ten best, ms", "times dense", "recall"]
    return table(header, lines)


def conditions() -> str:
    """Say how many documents were searched, and on what machine."""
    found = load_json(_PATH)
    return f"{found['documents']:,} documents, {found['queries']} queries, one thread of {found['machine']}"


def _order(each: dict[str, Any]) -> tuple[int, int]:
    """Sort by k or dimensions, dense vectors first."""
    return each.get("k", each.get("dims")), each.get("hidden_dim", 0)


def _line(each: dict[str, Any], dense: dict[str, Any], queries: int) -> list[str]:
    if "dims" in each:
        cells = [f"dense, {'all' if each is dense else 'first'} {each['dims']} dimensions", "", ""]
    else:
        cells = [f"k {each['k']} of {each['hidden_dim']:,} latents"]
        cells += [f"{each['postings']:.2f}", f"{each['postings_if_even']:.2f}"]
    for timed in _TIMED:
        cells.append(f"{1000 * median(each[timed]) / queries:.2f}")
        cells.append(f"{median(a / b for a, b in zip(each[timed], dense[timed], strict=True)):.2f}")
    return [*cells, f"{each['recall']:.3f}"]


REGIONS = {"paper-time": time_table, "paper-time-conditions": conditions}
