"""A speed contest of our index against its rivals: one run, one machine, the same documents, queries and threads."""

from __future__ import annotations

import difflib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.bench.contest import Contestant, Cost, compete, conditions, cost_of
from csr_hf.bench.csr_rival import CSRIndex
from csr_hf.bench.rivals import Corpus, FaissFlat, FaissHNSW, HnswLib, MilvusLite, Rival, USearch, document_codes
from csr_hf.bench.search_data import TOP_K, SearchData, make_data, real_embeddings
from csr_hf.bench.search_results import Measured, SearchContest, plot_search
from csr_hf.bench.staged_rivals import (
    FaissBinary,
    FaissIVFPQ,
    ScipyCSR,
    Seismic,
    SentenceTransformersSimilarity,
)
from csr_hf.evaluation.neighbors import neighbor_recall
from csr_hf.heads import load_head
from csr_hf.plumbing.atomic import check_writable
from csr_hf.repository import open_repository

if TYPE_CHECKING:
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

RIVALS: dict[str, type[Rival]] = {
    "csr_hf": CSRIndex,
    "flat": FaissFlat,
    "hnsw": FaissHNSW,
    "ivfpq": FaissIVFPQ,
    "binary": FaissBinary,
    "hnswlib": HnswLib,
    "usearch": USearch,
    "seismic": Seismic,
    "scipy": ScipyCSR,
    "sentence-transformers": SentenceTransformersSimilarity,
    "milvus": MilvusLite,
}
"""All contestants, by the name that `--contestants` takes."""
_JSON, _PLOT = "search.json", "search.png"


@dataclass(frozen=True)
class SearchSizes:
    """What is searched, and how it is measured."""

    documents: int = 1_000_000
    queries: int = 1_000
    """In a batch."""
    k: int | None = None
    """Active latents of a document; None is the head's k."""
    query_k_factors: tuple[int, ...] = (1, 2, 4)
    """Queries keep these many times k latents."""
    candidates: tuple[int, ...] = (100, 300, 1000)
    """Documents that a first stage over codes hands to the second."""
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further options of `InvertedIndex.search`, and the values to try."""
    jitter: float = 0.5
    seed: int = 0
    repeats: int = 3
    """Turns that count."""
    single: int = 200
    """Queries asked one by one in a turn."""
    threads: int = 1
    budget: float = 600
    """Seconds that a build may take."""


def bench_search(
    head: str | Path,
    sizes: SearchSizes,
    *,
    output_dir: str | Path,
    source: str = "python-docs",
    limit: int | None = None,
    contestants: Sequence[str] = ("all",),
    other_heads: Sequence[str | Path] = (),
    task: str | None = None,
    device: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    command: str = "",
) -> SearchContest:
    """Hold the contest, and write `search.json` and `search.png`.

    Args:
        head: folder of a run or head, or Hub id.
        sizes: what is searched, and how it is measured.
        output_dir: where results go; texts are embedded once, into `embeddings/` beside it.
        source: real embeddings, or texts to embed: see `search_data.real_embeddings`.
        limit: rows of each source of texts.
        contestants: of `RIVALS`, or "all".
        other_heads: of the same backbone; our index takes part with the codes of each of them as well.
        task: a retrieval task of mteb, on which each setting's nDCG@10 is measured too.
        device: of the head and its backbone; default the best at hand.
        progress: show bars.
        say: told what happens.
        command: the command line, recorded with the results.

    Raises:
        ValueError: for an unknown contestant or task, a source or head that cannot be read, or sizes out of range.
        ImportError: if a task is wanted and mteb is missing.
    """
    rivals, output = chosen_rivals(contestants), Path(output_dir)
    check_writable(output)
    _check_sizes(sizes)
    model = load_head(open_repository(head)).eval()
    others = [_other_head(other, model) for other in other_heads]
    rivals += CSRIndex.of_heads(others, sizes.k)

    @cache
    def backbone() -> Backbone:
        from csr_hf.encoder import CSREncoder

        return CSREncoder.from_pretrained(head, device=device).backbone

    if task is not None:
        from csr_hf.bench.search_task import check_task

        check_task(task)
    rows = real_embeddings(source, model.config, backbone, output, limit=limit, say=say, progress=progress)
    with tempfile.TemporaryDirectory(prefix="csr_hf-bench-") as temporary, _threads(sizes.threads):
        contest = _contest(model, rows, rivals, sizes, Path(temporary), say, progress)
        if task is not None:
            from csr_hf.bench.search_task import measure_task

            contest.task = task
            folder = output.parent / "embeddings"
            measure_task(task, contest, rivals, model, backbone(), sizes, folder, say=say, progress=progress)
    packages = sorted({kind.needs[1].partition("[")[0] for kind in RIVALS.values() if kind.needs})
    contest.details = {
        "command": command,
        **conditions(packages),
        "head": _sizes_of(model),
        "other_heads": [_sizes_of(other) for other in others],
        "source": ",".join(Path(name).name for name in source.split(",")),
        **asdict(sizes),
        **contest.details,
    }
    contest.save(output / _JSON)
    try:
        plot_search(contest, output / _PLOT)
    except ImportError as error:
        say(f"plot       none: {error}")
    return contest


def _contest(
    model: CSRModel,
    rows: np.ndarray,
    rivals: Sequence[type[Rival]],
    sizes: SearchSizes,
    folder: Path,
    say: Callable[[str], None],
    progress: bool,
) -> SearchContest:
    data = make_data(rows, sizes.documents, sizes.queries, sizes.jitter, sizes.seed, folder)
    say(f"data       {len(data.documents):,} documents around {data.origin['seeds']:,}, {len(data.queries):,} queries")
    corpus, seconds = make_corpus(model, data.documents, sizes, folder)
    say(f"codes      encoded in {seconds:,.1f} s")
    built, skipped = build_all(rivals, corpus, say)
    try:
        results = measure(built, data, sizes, progress=progress)
    finally:
        for entry in built:
            entry.rival.close()
    return SearchContest(results, skipped, {"data": data.origin, "encoding_seconds": seconds, "k": corpus.codes.k})


def _sizes_of(head: CSRModel) -> dict[str, int]:
    return {name: getattr(head.config, name) for name in ("input_dim", "hidden_dim", "k")}


def _other_head(name: str | Path, head: CSRModel) -> CSRModel:
    """A head whose codes take part as well."""
    other = load_head(open_repository(name)).eval()
    if other.config.input_dim != head.config.input_dim:
        raise ValueError(
            f"`other_heads`: {name} takes embeddings of width {other.config.input_dim}, the head of width "
            f"{head.config.input_dim}. Name heads of the same backbone."
        )
    return other


def _check_sizes(sizes: SearchSizes) -> None:
    for name in ("repeats", "single", "threads"):
        if getattr(sizes, name) < 1:
            raise ValueError(f"`{name}` ({getattr(sizes, name)}) must be at least 1.")
    for name in ("query_k_factors", "candidates"):
        least = TOP_K if name == "candidates" else 1
        values = getattr(sizes, name)
        if not values or min(values) < least:
            raise ValueError(f"`{name}` ({values}) must name numbers of at least {least}.")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch's, for what encodes queries; the others are told when they are built."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen_rivals(names: Sequence[str]) -> list[type[Rival]]:
    """Contestants by name; "all" is every one.

    Raises:
        ValueError: for an unknown name; the nearest is named.
    """
    for name in names:
        if name != "all" and name not in RIVALS:
            near = difflib.get_close_matches(name, RIVALS, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: all, {', '.join(RIVALS)}."
            raise ValueError(f"contestant {name!r} is unknown. {hint}")
    return [rival for name, rival in RIVALS.items() if name in names or "all" in names]


def make_corpus(head: CSRModel, documents: np.ndarray, sizes: SearchSizes, folder: Path) -> tuple[Corpus, float]:
    """What all contestants are given, and the seconds that the encoding of its codes took."""
    began = time.perf_counter()
    codes, norms = document_codes(head, documents, sizes.k)
    seconds = time.perf_counter() - began
    corpus = Corpus(
        documents,
        head,
        codes,
        norms,
        threads=sizes.threads,
        budget=sizes.budget,
        folder=folder,
        query_k_factors=sizes.query_k_factors,
        candidates=sizes.candidates,
        sweep=sizes.sweep,
    )
    return corpus, seconds


@dataclass
class Built:
    """A contestant that is ready."""

    rival: Rival
    cost: Cost


def build_all(
    rivals: Sequence[type[Rival]], corpus: Corpus, say: Callable[[str], None] = lambda line: None
) -> tuple[list[Built], dict[str, str]]:
    """Build every contestant and try each of its settings once.

    Returns:
        Those that are ready, and why others are not, by name.
    """
    built, skipped = [], {}
    for kind in rivals:
        try:
            kind.check()
            rival = kind(corpus)
            whole, settings = cost_of(rival.build, corpus.working_bytes), rival.settings()
            for setting in settings:
                rival.search(corpus.documents[:2], min(TOP_K, len(corpus.documents)), **setting)
            built.append(Built(rival, whole))
            seconds = rival.cost_of(settings[0], whole).seconds
            say(f"built      {kind.name}: {seconds:,.1f} s, {rival.bytes_per_vector:,.0f} bytes a document")
        except (KeyboardInterrupt, SystemExit):
            raise
        # Whatever a package of others raises, panics of native code among it, which are no `Exception`: the contest
        # goes on without it, and says so.
        except BaseException as error:  # noqa: BLE001
            skipped[kind.name] = (str(error) or type(error).__name__).splitlines()[0]
            say(f"skipped    {kind.name}: {skipped[kind.name]}")
    return built, skipped


def measure(built: Sequence[Built], data: SearchData, sizes: SearchSizes, *, progress: bool = True) -> list[Measured]:
    """Time every contestant at every setting, in turns, first batches and then single queries."""
    results, batches, singles = [], [], []
    for entry in built:
        for setting in entry.rival.settings():
            rival = entry.rival
            count = min(len(data.queries), rival.most_queries or len(data.queries))
            asked = min(len(data.queries), sizes.single, rival.most_singles or sizes.single)
            size = rival.bytes_of(setting)
            one = Measured(rival.name, setting, 0.0, count, [], [], size, *rival.cost_of(setting, entry.cost))
            name = f"{rival.name} {one.label}".strip()
            batches.append(Contestant(name, _batch(rival, one, data), count))
            singles.append(Contestant(name, _singles(rival, one, data.queries[:asked]), asked))
            results.append(one)
    for one, timing in zip(results, compete(batches, sizes.repeats, 1, progress=progress), strict=True):
        one.batch_ms = [1000 * seconds / timing.work for seconds in timing.seconds]
    compete(singles, sizes.repeats, 1, progress=progress)
    for one in results:
        # The first turn warmed up.
        one.single_ms = one.single_ms[1:]
    return results


def _batch(rival: Rival, one: Measured, data: SearchData) -> Callable[[], float]:
    queries, neighbors = data.queries[: one.queries], data.neighbors[: one.queries]

    def run() -> float:
        began = time.perf_counter()
        found = rival.search(queries, TOP_K, **one.setting)
        seconds = time.perf_counter() - began
        one.recall = neighbor_recall(np.asarray(found), neighbors)
        return seconds

    return run


def _singles(rival: Rival, one: Measured, queries: np.ndarray) -> Callable[[], float]:
    def run() -> float:
        taken = []
        for query in queries:
            began = time.perf_counter()
            rival.search_one(query, TOP_K, **one.setting)
            taken.append(1000 * (time.perf_counter() - began))
        one.single_ms.append(taken)
        return sum(taken) / 1000

    return run
