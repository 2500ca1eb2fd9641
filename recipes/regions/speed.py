"""Speed of the search beside other systems, on real documents.

The results file is written by `recipes/bench/search.py`, whose `report.py` describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from regions.markdown import command, load_json, table

_STATIC = "results/bench_search/descriptions.json"
_TRANSFORMER = "results/bench_search/transformer.json"
_MISSING = "Not measured yet."
_SPEEDS = {"batch": "in batches", "single": "one by one"}
_RECALLS = ("0.9", "0.95", "0.98")
_OURS = "csr_hf"
_PACKAGES = ("faiss-cpu", "scann", "rabitqlib")
_SIZES = (10**7, 10**8, 10**9)

Content = dict[str, Any]
"""Of a results file."""


def _write(write: Callable[[Content], str], file: str) -> str:
    """Hand over the content of a results file, or say that there is none."""
    try:
        content = load_json(file)
    except FileNotFoundError:
        return _MISSING
    return write({**content, "file": file})


def _costs(content: Content, system: str) -> list[str]:
    """Show the bytes and the build of a system."""
    one = next(one for one in content["results"] if one["system"] == system)
    return [f"{one['bytes_per_document']:,.0f}", f"{one['build_seconds']:,.0f}"]


def short_table(content: Content) -> str:
    """Compare systems at a recall of 0.95: milliseconds, bytes and seconds to build."""
    lines = [
        [system, *(f"{found[kind]['ms']:.3f}" for kind in _SPEEDS), *_costs(content, system)]
        for system, found in content["matched_recall"]["0.95"].items()
        if found and all(kind in found for kind in _SPEEDS)
    ]
    return table(["system", "ms in batches", "ms one by one", "bytes", "build, s"], lines)


def _matched_table(recall: str, content: Content) -> str:
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


def all_table(content: Content) -> str:
    """List every system at every setting."""
    lines = []
    for one in content["results"]:
        speeds = [f"{one['batch_ms_median']:.3f}", f"{one['single_ms_p50']:.3f}", f"{one['single_ms_p99']:.3f}"]
        lines.append([one["system"], one["label"], *speeds, f"{one['recall']:.3f}", *_costs(content, one["system"])])
    header = ["system", "setting", "ms in batches", "one by one, p50", "p99", "recall", "bytes", "build, s"]
    return table(header, lines, left=2)


def short_conditions(content: Content) -> str:
    """Say what was searched, on what."""
    details, data = content["details"], content["details"]["data"]
    return (
        f"{data['documents']:,} real descriptions of software packages as static embeddings of {data['dim']} "
        f"dimensions, of which the head has seen none, {details['threads']} threads. For each system the fastest "
        "setting with a recall of 0.95 or more; milliseconds a query, bytes a document:"
    )


def _fewer_queries(content: Content) -> str:
    """Name the systems that answered fewer queries one by one than the others, and how many."""
    asked = {one["system"]: one["single_queries"] for one in content["results"]}
    fewer = [f"{name} {count}" for name, count in asked.items() if count < content["details"]["single"]]
    return f" ({', '.join(fewer)})" if fewer else ""


def conditions(content: Content) -> str:
    """Name sizes, machine and versions."""
    details, data, head = content["details"], content["details"]["data"], content["details"]["head"]
    packages = [f"{name} {details['versions'][name]}" for name in _PACKAGES if name in details["versions"]]
    about = "\n".join(f"- {line}" for line in [*data.get("about", []), *details.get("notes_added_after_the_run", [])])
    return (
        f"{about}\n\n{data['documents']:,} documents and {data['queries']:,} queries of {data['dim']} dimensions, "
        f"{details['threads']} threads, {details['turns']} turns that count, {details['single']} queries one by one "
        f"in each{_fewer_queries(content)}. A head of {head['hidden_dim']:,} latents. "
        f"{details['machine']}; {', '.join(packages)}. [Results]({content['file']})."
    )


def summary(content: Content) -> str:
    """Say at each recall which systems take how many times as long as csr_hf, and what is smaller."""
    sentences = []
    for recall in _RECALLS:
        matched = content["matched_recall"][recall]
        for kind, title in _SPEEDS.items():
            times = {
                name: found[kind]["interpolated_times_csr_hf"]
                for name, found in matched.items()
                if found and kind in found and not name.startswith(_OURS)
            }
            known = {name: ratio for name, ratio in times.items() if ratio is not None}
            if known:
                listed = ", ".join(f"{name} {ratio:.2g}" for name, ratio in sorted(known.items(), key=lambda x: x[1]))
                sentences.append(f"At {recall} {title}: {listed} times the time of csr_hf.")
    return "\n".join(f"- {sentence}" for sentence in sentences) or "No other system was measured."


def filters_table(content: Content) -> str:
    """Compare searches among a part of the documents with those among all."""
    lines = [
        [
            name,
            f"{one['share']:.0%}",
            f"{one['recall']:.3f}",
            *(f"{one[f'{kind}_{unit}']:.{digits}f}" for kind in _SPEEDS for unit, digits in (("ms", 3), ("times", 2))),
        ]
        for name, entries in content["filters"].items()
        for one in entries
    ]
    speeds = [name for title in _SPEEDS.values() for name in (f"ms {title}", "times that among all")]
    return table(["system", "may be found", "recall", *speeds], lines)


def plot(content: Content) -> str:
    """Show the plot beside the results file."""
    file = content["file"].removesuffix(".json")
    return f"![Recall against milliseconds a query, in batches and one by one]({file}.png)"


def skipped(content: Content) -> str:
    """Name the systems that could not be measured."""
    left_out = [f"- {name} was left out: {reason}" for name, reason in content["skipped"].items()]
    return "\n".join(left_out) or "No system was left out."


def bench_command(content: Content) -> str:
    """Show the command."""
    return command(content["details"]["command"])


def scale_table(content: Content) -> str:
    """Multiply bytes and build time of csr_hf up to larger collections."""
    one = next(one for one in content["results"] if one["system"].startswith(_OURS))
    documents = content["details"]["data"]["documents"]
    lines = []
    for size in _SIZES:
        hours = one["build_seconds"] / documents * size / 3600
        lines.append([f"{size:,}", f"{one['bytes_per_document'] * size / 1e9:,.0f} GB", f"{hours:,.1f} h"])
    return table(["documents", "on disk", "encoded and indexed"], lines, left=0)


_AT = {f"bench-at-{recall[2:].ljust(2, '0')}": partial(_matched_table, recall) for recall in _RECALLS}
_WRITERS: dict[str, Callable[[Content], str]] = {
    **_AT,
    "speed": short_table,
    "speed-conditions": short_conditions,
    "speed-summary": summary,
    "bench-all": all_table,
    "bench-plot": plot,
    "bench-filters": filters_table,
    "bench-conditions": conditions,
    "bench-skipped": skipped,
    "bench-command": bench_command,
    "scale": scale_table,
}
_ALSO: dict[str, Callable[[Content], str]] = {
    **_AT,
    "speed-summary": summary,
    "bench-plot": plot,
    "bench-filters": filters_table,
    "bench-conditions": conditions,
    "bench-command": bench_command,
}
"""What is shown of the transformer's embeddings too."""
REGIONS = {
    **{name: partial(_write, write, _STATIC) for name, write in _WRITERS.items()},
    **{f"{name}-transformer": partial(_write, write, _TRANSFORMER) for name, write in _ALSO.items()},
}
