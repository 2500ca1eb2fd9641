"""Measure csr_hf's search beside other systems, on your own embeddings.

Documents are the first rows of a file of embeddings, queries its last rows or a file of their own. Every system gets
the same ones, and the same threads; all take turns, after one turn to warm up. Recall is of the exact dense top 10.
What a system needs before it can search counts as its build, from embeddings on: for csr_hf the encoding too, and with
--adapted the training of the head. Bytes are those of its files.
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
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

import baselines
import csr
from csr_hf.evaluation.neighbors import neighbor_recall
from csr_hf.heads import load_head
from csr_hf.plumbing.atomic import check_writable
from csr_hf.plumbing.provenance import record_command
from csr_hf.plumbing.settings import suggest
from csr_hf.plumbing.threads import available_threads, spin_briefly
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from data import TOP_K, SearchData, load_data
from filters import measure_filters
from measure import Cost, conditions, cost_of, limited_to, time_in_turns
from report import Measured, Report
from systems import AdaptedHead, Corpus, System

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

SYSTEMS: dict[str, type[System]] = {
    "csr_hf": csr.CSRIndex,
    "csr_hf_small": csr.CSRSmall,
    "csr_hf_fine": csr.CSRFine,
    "csr_hf_float16": csr.CSRFloat16,
    "csr_hf_codes": csr.CSRCodesAlone,
    "csr_hf_adapted": csr.CSRAdapted,
    "flat": baselines.FaissFlat,
    "hnsw": baselines.FaissHNSW,
    "ivfpq": baselines.FaissIVFPQ,
    "scann": baselines.Scann,
    "symqg": baselines.SymphonyQG,
    "ivfrabitq": baselines.IVFRaBitQ,
}
"""By the name that `--systems` takes."""
_PACKAGES = ("faiss-cpu", "scann", "rabitqlib")
_EXAMPLES = """
examples:
  python recipes/bench/search.py --embeddings embeddings.npy --head runs/mine --output bench/search
  python recipes/bench/search.py --embeddings embeddings.npy --systems flat,hnsw,scann --values hnsw.ef=64,128
  python recipes/bench/search.py --embeddings documents.npy --queries queries.npy --head user/minilm-csr --threads 1

Results are compared on a machine that does nothing else. What a file embeddings.about.txt beside embeddings.npy tells
about the data is recorded with them.

A head for such a file, trained on its first 200,000 rows, which are then the documents that it is adapted to:
  csr-hf train --corpus embeddings.npy --limit 200000 --output-dir runs/mine

Packages that are missing leave their systems out: pip install "csr_hf[bench]" installs all.
"""


@dataclass
class Built:
    """A system that is ready."""

    system: System
    cost: Cost
    """From embeddings."""
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
            system.warm_up()
            cost = cost_of(system.build, corpus.working_bytes).after(Cost(system.seconds_before, 0.0))
            for setting in system.settings():
                system.search(corpus.documents[:2], TOP_K, **setting)
            size = system.bytes_per_document
            built.append(Built(system, cost, size))
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
            one = Measured(system.name, setting, 0.0, len(data.queries), [], [], ready.bytes_per_document, *ready.cost)
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
        names: by comma; "all" is every one.
        values: each "name.parameter=value,value".

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
        keys = {key for key in SYSTEMS if name in ("all", key)}
        if not keys:
            raise ValueError(f"system {name!r} is unknown. {suggest(name, ['all', *SYSTEMS])}")
        found |= keys
    return found


def _number(text: str, where: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise ValueError(f"`--values {where}`: {text!r} is no number. Give numbers by comma.") from None


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
        head, adapted = load_heads(options)
        data = load_data(
            options.embeddings, options.queries, n_documents=options.n_documents, n_queries=options.n_queries
        )
        for known in (head, adapted.head if adapted else None):
            check_width(data, known)
        print(f"data     {len(data.documents):,} documents, {len(data.queries):,} queries")
        corpus = Corpus(data.documents, options.threads, Path(folder), head, adapted)
        details |= {"data": data.description, "head": None}
        if head is not None:
            details["head"] = {name: getattr(head.config, name) for name in ("input_dim", "hidden_dim", "k")}
        if adapted is not None:
            details["adapted_head"] = {"training_seconds": adapted.seconds}
        built, skipped = build_all(kinds, corpus)
        if not built:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            raise ValueError(f"`--systems {options.systems}`: none can be built ({reasons}).")
        measured = measure(built, data, options.turns, options.single)
        filtered = {
            ready.system.name: measure_filters(ready.system, data, options.turns, options.single)
            for ready in built
            if type(ready.system).search_among is not System.search_among and not options.no_filters
        }
        report = Report(details, skipped, measured, filtered)
    report.save(options.output / "search.json")
    try:
        report.plot(options.output / "search.png")
    except ImportError as error:
        print(f"plot     none: {error}")
    return report


def load_heads(options: argparse.Namespace) -> tuple[CSRModel | None, AdaptedHead | None]:
    """Load the heads that the options name.

    Raises:
        ValueError: if `--adapted` is no finished run, whose recipe tells how long the training took.
    """
    head = None if options.head is None else load_head(open_repository(options.head)).eval()
    if options.adapted is None:
        return head, None
    recipe = RunFolder.of(options.adapted).model_recipe
    found = RunRecipe.recorded(recipe, "results") if recipe.is_file() else {}
    if "seconds" not in found:
        raise ValueError(f"`--adapted` ({options.adapted}) must be a run of csr-hf train, which records its seconds.")
    return head, AdaptedHead(load_head(open_repository(options.adapted)).eval(), float(found["seconds"]))


def check_width(data: SearchData, head: CSRModel | None) -> None:
    """Check that a head takes the embeddings.

    Raises:
        ValueError: if they have another width.
    """
    width = data.documents.shape[1]
    if head is not None and head.config.input_dim != width:
        raise ValueError(
            f"`--embeddings` are {width} wide, the head takes `input_dim` {head.config.input_dim}. Name embeddings of "
            "the head's backbone."
        )


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
    add("--adapted", help="folder of a run whose head was trained on the documents, to measure beside --head")
    add("--systems", default="all", help=f"by comma: all, {', '.join(SYSTEMS)} (default: %(default)s)")
    add(
        "--values",
        action="append",
        default=[],
        metavar="SYSTEM.PARAMETER=V,V",
        help="other values of a parameter to measure; may be repeated",
    )
    add("--turns", type=int, default=3, help="that count, after one to warm up (default: %(default)s)")
    add("--single", type=int, default=200, help="queries searched one by one in a turn (default: %(default)s)")
    add("--no-filters", action="store_true", help="measure no searches among a part of the documents")
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
