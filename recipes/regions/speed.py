"""Speed of the search beside other systems, on real documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from regions.markdown import RECIPES, command, load_json, table

_FILE = "results/bench_search/real_800k.json"
_MISSING = "Not measured yet."
_SPEEDS = {"batch": "batch_ms_median", "single": "single_ms_p50"}
_SIZES = (10**7, 10**8, 10**9)


def _if_measured(write: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Hand over the content of the results file, or say that there is none."""

    @wraps(write)
    def region() -> str:
        return write(load_json(_FILE)) if (RECIPES / _FILE).is_file() else _MISSING

    return region


def _matched(content: dict[str, Any], recall: str) -> list[list[str]]:
    """Compare the fastest settings that reach a recall, those of a system in one line."""
    lines = []
    for system, found in content["matched_recall"][recall].items():
        if found is None:
            lines.append([system, "not reached", "", "", "", "", "", ""])
            continue
        costs = next(one for one in content["results"] if one["system"] == system)
        cells = [cell for kind in _SPEEDS for cell in _speed(found.get(kind))]
        lines.append([system, *cells, f"{costs['bytes_per_document']:,.0f}", f"{costs['build_seconds']:,.0f}"])
    return lines


def _speed(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    return [found["setting"], f"{found['recall']:.3f}", f"{found['ms']:.3f}"]


_MATCHED = ["system", "in batches", "recall", "ms a query", "one by one", "recall", "ms a query", "bytes", "build, s"]


@_if_measured
def short_table(content: dict[str, Any]) -> str:
    """Compare systems at a recall of 0.95: milliseconds, bytes and seconds to build."""
    lines = []
    for line in _matched(content, "0.95"):
        if line[1] != "not reached":
            lines.append([line[0], line[3], line[6], *line[7:]])
    return table(["system", "in batches, ms", "one by one, ms", "bytes", "build, s"], lines)


def matched_table(recall: str) -> Callable[[], str]:
    """Compare systems at a recall, with the settings that reach it."""

    @_if_measured
    def region(content: dict[str, Any]) -> str:
        width = len(_MATCHED)
        return table(_MATCHED, [[*line, *[""] * (width - len(line))] for line in _matched(content, recall)], left=2)

    return region


@_if_measured
def all_table(content: dict[str, Any]) -> str:
    """List every system at every setting."""
    lines = []
    for one in content["results"]:
        speeds = [f"{one['batch_ms_median']:.3f}", f"{one['single_ms_p50']:.3f}", f"{one['single_ms_p99']:.3f}"]
        costs = [f"{one['recall']:.3f}", f"{one['bytes_per_document']:,.0f}", f"{one['build_seconds']:,.0f}"]
        lines.append([one["system"], one["label"], *speeds, *costs])
    header = ["system", "setting", "in batches, ms", "one by one: p50", "p99", "recall", "bytes", "build, s"]
    return table(header, lines, left=2)


@_if_measured
def conditions(content: dict[str, Any]) -> str:
    """Name the data, the machine and the versions."""
    details, data, head = content["details"], content["details"]["data"], content["details"]["head"]
    versions = ", ".join(
        f"{name} {details['versions'][name]}"
        for name in ("faiss-cpu", "scann", "rabitqlib", "pyseismic-lsr")
        if name in details["versions"]
    )
    return (
        f"{data['documents']:,} documents and {data['queries']:,} queries of {data['dim']} dimensions, "
        f"{details['threads']} threads, {details['turns']} turns; {details['single']} queries one by one. A head of "
        f"{head['hidden_dim']:,} latents, k = {head['k']}. {details['machine']}; {versions}."
    )


@_if_measured
def skipped(content: dict[str, Any]) -> str:
    """Name the systems that could not be measured."""
    if not content["skipped"]:
        return "No system was left out."
    return "\n".join(f"- {name} was left out: {reason}" for name, reason in content["skipped"].items())


@_if_measured
def bench_command(content: dict[str, Any]) -> str:
    """Show the command."""
    return command(content["details"]["command"])


def times(system: str, kind: str) -> Callable[[], str]:
    """Say how many times as long as csr_hf's fastest setting another system takes, both at a recall of 0.95."""

    @_if_measured
    def region(content: dict[str, Any]) -> str:
        return f"{content['matched_recall']['0.95'][system][kind]['times_csr_hf']:.2g}"

    return region


@_if_measured
def encode_seconds(content: dict[str, Any]) -> str:
    """Return the seconds that encoding takes, to one significant figure less than the file."""
    return f"{max(one['encode_seconds'] for one in content['results']):,.0f}"


@_if_measured
def scale_table(content: dict[str, Any]) -> str:
    """Multiply bytes and build time of csr_hf up to larger collections."""
    one = next(one for one in content["results"] if one["system"].startswith("csr_hf"))
    documents = content["details"]["data"]["documents"]
    lines = []
    for size in _SIZES:
        hours = one["build_seconds"] / documents * size / 3600
        lines.append([f"{size:,}", f"{one['bytes_per_document'] * size / 1e9:,.0f} GB", f"{hours:,.0f} h"])
    return table(["documents", "on disk", "encoded and indexed, 2 cores"], lines, left=0)


REGIONS = {
    "speed": short_table,
    "bench-at-90": matched_table("0.9"),
    "bench-at-95": matched_table("0.95"),
    "bench-all": all_table,
    "bench-conditions": conditions,
    "bench-skipped": skipped,
    "bench-command": bench_command,
    "times-flat-batch": times("faiss flat", "batch"),
    "encode-seconds": encode_seconds,
    "scale": scale_table,
}
