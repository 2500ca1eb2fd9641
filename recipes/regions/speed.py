"""Speed of the search beside other systems, on real documents.

The results file is written by `recipes/bench/search.py`, whose `report.py` describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from regions.markdown import command, load_json, table

_FILE = "results/bench_search/descriptions.json"
_MISSING = "Not measured yet."
_SPEEDS = {"batch": "in batches", "single": "one by one"}
_COMPARED = ("faiss flat", "faiss HNSW32")
_CODES_ALONE = "csr_hf, codes alone"
_PACKAGES = ("faiss-cpu", "scann", "rabitqlib", "pyseismic-lsr")
_SIZES = (10**7, 10**8, 10**9)


def _if_measured(write: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Hand over the content of the results file, or say that there is none."""

    @wraps(write)
    def region() -> str:
        try:
            content = load_json(_FILE)
        except FileNotFoundError:
            return _MISSING
        return write(content)

    return region


def _costs(content: dict[str, Any], system: str) -> list[str]:
    """Show the bytes and the build of a system."""
    one = next(one for one in content["results"] if one["system"] == system)
    return [f"{one['bytes_per_document']:,.0f}", f"{one['build_seconds']:,.0f}"]


@_if_measured
def short_table(content: dict[str, Any]) -> str:
    """Compare systems at a recall of 0.95: milliseconds, bytes and seconds to build."""
    lines = [
        [system, *(f"{found[kind]['ms']:.3f}" for kind in _SPEEDS), *_costs(content, system)]
        for system, found in content["matched_recall"]["0.95"].items()
        if found and all(kind in found for kind in _SPEEDS)
    ]
    return table(["system", "ms in batches", "ms one by one", "bytes", "build, s"], lines)


def _matched_table(recall: str, content: dict[str, Any]) -> str:
    lines = []
    for system, found in content["matched_recall"][recall].items():
        cells: list[str] = []
        for kind in _SPEEDS:
            one = (found or {}).get(kind)
            if one is None:
                cells += ["not reached", "", "", ""]
                continue
            ratio = one["times_csr_hf"]
            cells += [
                one["setting"],
                f"{one['recall']:.3f}",
                f"{one['ms']:.3f}",
                "" if ratio is None else f"{ratio:.2f}",
            ]
        lines.append([system, *cells, *_costs(content, system)])
    speeds = [name for title in _SPEEDS.values() for name in (title, "recall", "ms a query", "times csr_hf's")]
    return table(["system", *speeds, "bytes", "build, s"], lines)


@_if_measured
def all_table(content: dict[str, Any]) -> str:
    """List every system at every setting."""
    lines = []
    for one in content["results"]:
        speeds = [f"{one['batch_ms_median']:.3f}", f"{one['single_ms_p50']:.3f}", f"{one['single_ms_p99']:.3f}"]
        lines.append([one["system"], one["label"], *speeds, f"{one['recall']:.3f}", *_costs(content, one["system"])])
    header = ["system", "setting", "ms in batches", "one by one, p50", "p99", "recall", "bytes", "build, s"]
    return table(header, lines, left=2)


@_if_measured
def short_conditions(content: dict[str, Any]) -> str:
    """Say what was searched, on what."""
    details, data = content["details"], content["details"]["data"]
    return (
        f"{data['documents']:,} real descriptions of software packages as static embeddings of {data['dim']} "
        f"dimensions (the head was trained on nine tenths of them), {details['threads']} threads. For each system the "
        "fastest setting with a recall of 0.95 or more; milliseconds a query, bytes a document:"
    )


def _fewer_queries(content: dict[str, Any]) -> str:
    """Name the systems that answered fewer queries one by one than the others, and how many."""
    asked = {one["system"]: one["single_queries"] for one in content["results"]}
    fewer = [f"{name} {count}" for name, count in asked.items() if count < content["details"]["single"]]
    return f" ({', '.join(fewer)})" if fewer else ""


@_if_measured
def conditions(content: dict[str, Any]) -> str:
    """Name sizes, machine and versions."""
    details, data, head = content["details"], content["details"]["data"], content["details"]["head"]
    packages = [f"{name} {details['versions'][name]}" for name in _PACKAGES if name in details["versions"]]
    about = "\n".join(f"- {line}" for line in [*data.get("about", []), *details.get("notes_added_after_the_run", [])])
    return (
        f"{about}\n\n{data['documents']:,} documents and {data['queries']:,} queries of {data['dim']} dimensions, "
        f"{details['threads']} threads, {details['turns']} turns that count, {details['single']} queries one by one "
        f"in each{_fewer_queries(content)}. A head of {head['hidden_dim']:,} latents, k = {head['k']}. "
        f"{details['machine']}; {', '.join(packages)}. [Results]({_FILE})."
    )


@_if_measured
def summary(content: dict[str, Any]) -> str:
    """Say how csr_hf stands beside flat search and HNSW, which systems are faster, and what encoding costs."""
    found = content["matched_recall"]["0.95"]
    sentences = []
    for kind, title in _SPEEDS.items():
        times = {name: one[kind]["times_csr_hf"] for name, one in found.items() if one and kind in one}
        slower = [f"{name} takes {times[name]:.2g} times" for name in _COMPARED if times.get(name, 0) > 1]
        faster = ", ".join(name for name, ratio in times.items() if ratio < 1)
        compared = f"{' and '.join(slower)} as long as csr_hf; " if slower else ""
        sentences.append(f"{title.capitalize()} {compared}faster than csr_hf: {faster or 'none'}.")
    ours = next(one for one in content["results"] if one["system"].startswith("csr_hf"))
    sentences.append(
        f"Of the {ours['build_seconds']:,.1f} seconds that csr_hf needs to build, encoding takes "
        f"{ours['encode_seconds']:,.1f}."
    )
    alone = [one["recall"] for one in content["results"] if one["system"] == _CODES_ALONE]
    if alone:
        sentences.append(
            "Codes alone, without copies of the embeddings to rerank by, find at most "
            f"{max(alone):.0%} of the true top 10."
        )
    sentences.append("Ratios are medians over turns, so they differ a little from those of the times shown.")
    return " ".join(sentences)


@_if_measured
def skipped(content: dict[str, Any]) -> str:
    """Name the systems that could not be measured."""
    left_out = [f"- {name} was left out: {reason}" for name, reason in content["skipped"].items()]
    return "\n".join(left_out) or "No system was left out."


@_if_measured
def bench_command(content: dict[str, Any]) -> str:
    """Show the command."""
    return command(content["details"]["command"])


@_if_measured
def scale_table(content: dict[str, Any]) -> str:
    """Multiply bytes and build time of csr_hf up to larger collections."""
    one = next(one for one in content["results"] if one["system"].startswith("csr_hf"))
    documents = content["details"]["data"]["documents"]
    lines = []
    for size in _SIZES:
        hours = one["build_seconds"] / documents * size / 3600
        lines.append([f"{size:,}", f"{one['bytes_per_document'] * size / 1e9:,.0f} GB", f"{hours:,.1f} h"])
    return table(["documents", "on disk", "encoded and indexed"], lines, left=0)


REGIONS = {
    "speed": short_table,
    "speed-conditions": short_conditions,
    "speed-summary": summary,
    "bench-at-90": _if_measured(partial(_matched_table, "0.9")),
    "bench-at-95": _if_measured(partial(_matched_table, "0.95")),
    "bench-all": all_table,
    "bench-conditions": conditions,
    "bench-skipped": skipped,
    "bench-command": bench_command,
    "scale": scale_table,
}
