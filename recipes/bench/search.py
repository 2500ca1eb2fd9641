"""Measure csr_hf's search beside other systems, on your own embeddings.

Documents are the first rows of a file of embeddings, queries its last rows or a file of their own. Every system gets
the same ones, and the same threads; all take turns, after one turn to warm up. Recall is of the exact dense top 10.
What a system needs before it can search counts as its build, from embeddings on: for csr_hf the encoding too.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import baselines
import csr
from codes import DocumentCodes
from csr_hf.evaluation.neighbors import neighbor_recall
from csr_hf.heads import load_head
from csr_hf.plumbing.atomic import check_writable
from csr_hf.plumbing.provenance import record_command
from csr_hf.plumbing.settings import suggest
from csr_hf.plumbing.threads import available_threads, spin_briefly
from csr_hf.repository import open_repository
from data import TOP_K, SearchData, load_data
from measure import Cost, conditions, cost_of, limited_to, time_in_turns
from report import Measured, Report
from systems import Corpus, System

SYSTEMS: dict[str, type[System]] = {
    "csr_hf_int8": csr.CSRSignsInt8,
    "csr_hf_float16": csr.CSRSignsFloat16,
    "csr_hf_lists": csr.CSRListsInt8,
    "csr_hf_codes": csr.CSRCodesAlone,
    "flat": baselines.FaissFlat,
    "hnsw": baselines.FaissHNSW,
    "ivfpq": baselines.FaissIVFPQ,
    "scann": baselines.Scann,
    "symqg": baselines.SymphonyQG,
    "ivfrabitq": baselines.IVFRaBitQ,
    "binary": baselines.FaissBinary,
    "seismic": baselines.Seismic,
}
"""By the name that `--systems` takes; csr_hf alone stands for all of csr_hf's."""
_PACKAGES = ("faiss-cpu", "scann", "rabitqlib", "pyseismic-lsr")
_EXAMPLES = """
examples:
  python recipes/bench/search.py --embeddings embeddings.npy --head runs/mine --output bench/search
  python recipes/bench/search.py --embeddings embeddings.npy --systems flat,hnsw,scann --values hnsw.ef=64,128
  python recipes/bench/search.py --embeddings documents.npy --queries queries.npy --head user/minilm-csr --threads 1

Results are compared on a machine that does nothing else. What a file embeddings.about.txt beside embeddings.npy tells
about the data is recorded with them.

A head for such a file, trained on its first 200,000 rows:
  csr-hf train --corpus embeddings.npy --limit 200000 --output-dir runs/mine

Packages that are missing leave their systems out: pip install "csr_hf[bench]" installs all.
"""


@dataclass
class Built:
    """A system that is ready."""

    system: System
    cost: Cost
    """From embeddings."""
    encode_seconds: float
    bytes_per_document: float


def build_all(kinds: Sequence[type[System]], corpus: Corpus) -> tuple[list[Built], dict[str, str]]:
    """Build every system and try each of its settings once.

    Returns:
        Those that are ready, and by name the reason why others are not.
    """
    built, skipped = [], {}
    for kind in kinds:
        try:
            system = kind(corpus)
            system.check()
            cost, encode_seconds = cost_of(system.build, corpus.working_bytes), 0.0
            if kind.needs_codes:
                cost, encode_seconds = cost.after(corpus.encoded.cost), corpus.encoded.cost.seconds
            for setting in system.settings():
                system.search(corpus.documents[:2], TOP_K, **setting)
            size = system.bytes_per_document
            built.append(Built(system, cost, encode_seconds, size))
            print(f"built    {kind.name}: {cost.seconds:,.1f} s, {size:,.0f} bytes a document")
        except (KeyboardInterrupt, SystemExit):
            raise
        # Whatever a package of others raises, panics of native code among it, which are no `Exception`: the benchmark
        # goes on without it, and says so.
        except BaseException as error:  # noqa: BLE001
            skipped[kind.name] = (str(error) or type(error).__name__).splitlines()[0]
            print(f"skipped  {kind.name}: {skipped[kind.name]}")
    return built, skipped


def measure(built: Sequence[Built], data: SearchData, turns: int, single: int) -> list[Measured]:
    """Time every system at every setting, first batches of all queries, then single queries.

    Args:
        built: systems that are ready.
        data: what is searched.
        turns: measurements of each, after one to warm up.
        single: queries that are searched one by one in a turn.
    """
    results, batches, singles = [], [], []
    for ready in built:
        system = ready.system
        for setting in system.settings():
            cost = (ready.bytes_per_document, ready.encode_seconds, *ready.cost)
            one = Measured(system.name, setting, 0.0, len(data.queries), [], [], *cost)
            name = f"{one.system}, {one.label}"
            batches.append((name, _batch(system, one, data)))
            singles.append((name, _singles(system, one, data.queries[: min(single, system.max_single or single)])))
            results.append(one)
    for one, seconds in zip(results, time_in_turns(batches, turns), strict=True):
        one.batch_ms = [1000 * taken / one.queries for taken in seconds]
    time_in_turns(singles, turns)
    for one in results:
        # The first turn warmed up.
        one.single_ms = one.single_ms[1:]
    return results


def _batch(system: System, one: Measured, data: SearchData) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        found = system.search(data.queries, TOP_K, **one.setting)
        seconds = time.perf_counter() - began
        one.recall = float(neighbor_recall(np.asarray(found), data.neighbors).mean())
        return seconds

    return run


def _singles(system: System, one: Measured, queries: np.ndarray) -> Callable[[], float]:
    def run() -> float:
        taken = []
        for query in queries:
            began = time.perf_counter()
            system.search_one(query, TOP_K, **one.setting)
            taken.append(1000 * (time.perf_counter() - began))
        one.single_ms.append(taken)
        return sum(taken) / 1000

    return run


def chosen_systems(names: str, values: Sequence[str]) -> list[type[System]]:
    """Return systems by name, some of them with other values of their parameters.

    Args:
        names: by comma; "all" is every one, "csr_hf" all of csr_hf's.
        values: each "name.parameter=value,value"; "all" is no limit.

    Raises:
        ValueError: for an unknown system or parameter (the nearest is named), or a value that is no number.
    """
    wanted = _keys(names)
    kinds = {name: kind for name, kind in SYSTEMS.items() if name in wanted}
    for text in values:
        target, _, numbers = text.partition("=")
        name, _, parameter = target.partition(".")
        for key in _keys(name):
            known = SYSTEMS[key].values
            if parameter not in known:
                raise ValueError(f"`--values {text}`: {key} has no {parameter!r}. {suggest(parameter, list(known))}")
            parsed = [_number(number, text) for number in numbers.split(",")]
            if key not in kinds:
                if key == name:
                    raise ValueError(f"`--values {text}`: {key} is not among `--systems`. Add it there.")
                continue
            kinds[key] = type(kinds[key].__name__, (kinds[key],), {"values": {**kinds[key].values, parameter: parsed}})
    return list(kinds.values())


def _keys(names: str) -> set[str]:
    """Return the systems that names by comma stand for."""
    found: set[str] = set()
    for name in names.split(","):
        keys = {key for key in SYSTEMS if name in ("all", key) or (name == "csr_hf" and key.startswith(name))}
        if not keys:
            raise ValueError(f"system {name!r} is unknown. {suggest(name, ['all', 'csr_hf', *SYSTEMS])}")
        found |= keys
    return found


def _number(text: str, where: str) -> int | float | None:
    if text == "all":
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise ValueError(f"`--values {where}`: {text!r} is no number. Give numbers by comma, or all.") from None


def run(options: argparse.Namespace) -> Report:
    """Read, build, measure and write.

    Raises:
        ValueError: for options that are out of range or files that do not fit.
    """
    kinds = chosen_systems(options.systems, options.values)
    for name in ("turns", "single"):
        if getattr(options, name) < 1:
            raise ValueError(f"`--{name}` ({getattr(options, name)}) must be at least 1.")
    check_writable(options.output)
    details = {**conditions(_PACKAGES), "top_k": TOP_K, "seed": 0}
    details |= {name: getattr(options, name) for name in ("threads", "turns", "single")}
    with tempfile.TemporaryDirectory(prefix="csr_hf-bench-") as folder, limited_to(options.threads):
        head = None if options.head is None else load_head(open_repository(options.head)).eval()
        data = load_data(
            options.embeddings, options.queries, n_documents=options.n_documents, n_queries=options.n_queries
        )
        print(f"data     {len(data.documents):,} documents, {len(data.queries):,} queries")
        corpus = Corpus(data.documents, options.threads, Path(folder))
        details |= {"data": data.description, "head": None}
        if head is not None:
            corpus.codes = DocumentCodes.encode(head, data.documents, options.k, options.refine)
            sizes = {name: getattr(head.config, name) for name in ("input_dim", "hidden_dim")}
            details["head"] = {**sizes, "k": corpus.codes.codes.k, "refine": options.refine}
            print(f"encoded  {corpus.codes.cost.seconds:,.1f} s")
        built, skipped = build_all(kinds, corpus)
        if not built:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise ValueError(f"`--systems {options.systems}`: none can be built ({reasons}).")
        report = Report(details, skipped, measure(built, data, options.turns, options.single))
    report.save(options.output / "search.json")
    try:
        report.plot(options.output / "search.png")
    except ImportError as error:
        print(f"plot     none: {error}")
    return report


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="search.py",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add("--embeddings", type=Path, required=True, help="npy file of documents, shape (rows, dim)")
    add("--queries", type=Path, help="npy file of queries (default: the last rows of --embeddings)")
    add("--head", help="folder of a run or head, or Hub id; without it systems over codes are left out")
    add("--n-documents", type=int, help="first rows to search among (default: all that are no queries)")
    add("--n-queries", type=int, default=1000, help="in a batch (default: %(default)s)")
    add("--k", type=int, help="active latents of a document (default: the head's)")
    add(
        "--refine",
        choices=["values", "pursuit"],
        default="pursuit",
        help="how documents are encoded: pursuit as csr-hf run does, values sooner (default: %(default)s)",
    )
    add("--systems", default="all", help=f"by comma: all, csr_hf, {', '.join(SYSTEMS)} (default: %(default)s)")
    add(
        "--values",
        action="append",
        default=[],
        metavar="SYSTEM.PARAMETER=V,V",
        help="other values of a parameter to measure; may be repeated",
    )
    add("--turns", type=int, default=3, help="that count, after one to warm up (default: %(default)s)")
    add("--single", type=int, default=200, help="queries searched one by one in a turn (default: %(default)s)")
    add("--threads", type=int, default=available_threads(), help="of every system (default: all cores)")
    add("--output", "-o", type=Path, default=Path("runs/bench/search"), help="folder to write (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; 2 for what is wrong with it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    # Before torch is imported: its idle threads would spin on the cores that others are timed on.
    spin_briefly()
    record_command(shlex.join(["python", "recipes/bench/search.py", *arguments]))
    try:
        report = run(options)
    except (ValueError, OSError) as error:
        print(f"search.py: error: {error}", file=sys.stderr)
        return 2
    for table in report.to_tables():
        Console(width=180).print(table)
    print(f"written  {options.output}/search.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
