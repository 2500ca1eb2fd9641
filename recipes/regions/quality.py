"""How much of the dense model's quality is kept: the quickstart, SciFact, seven tasks of MTEB, general and adapted."""

from __future__ import annotations

from functools import partial

import yaml

from csr_hf.evaluation.results import Results, Row
from regions.markdown import ROOT, command, load_json, load_results, table

_QUICKSTART = ROOT / "model_cards" / "csr-all-MiniLM-L6-v2-python-docs" / "results"
_GENERAL = "all-MiniLM-L6-v2/results/general_k32"
_TASKS = {"SciFact": "scifact_k32", "MLQuestions": "mlquestions_k32"}
_METHODS = ("CSR", "CSR, decoded", "CSR + int8")
_SHORT = {
    ("dense", None, 1536): "float32 embeddings",
    ("CSR", 32, 132): "CSR codes, k = 32, alone",
    ("CSR, decoded", 32, 132): "CSR codes, k = 32, decoded to rerank",
    ("CSR + int8", 16, 456): "CSR codes, k = 16, with int8 copies to rerank by",
    ("int8", None, 384): "int8",
    ("binary", None, 48): "sign bits, compared with a float query",
    ("PQ", None, 132): "product quantization",
    ("PCA", None, 132): "PCA, float16",
    ("truncation", None, 132): "the first dimensions, float16",
}
"""Method, k and bytes of the lines of the short table: what they are called there."""


def quickstart_table() -> str:
    """Show what the quickstart prints, as a table."""
    results = Results.load(_QUICKSTART)
    lines: dict[tuple, dict[str, Row]] = {}
    for row in results.rows:
        lines.setdefault((row.method, row.k, row.bytes_per_vector), {})[row.metric] = row
    cells = []
    for (method, k, size), found in lines.items():
        ndcg, neighbors = found["nDCG@10"], found["dense top 10"]
        figures = [*ndcg.shown(), neighbors.shown()[0]]
        cells.append([method, str(k or ""), str(size), *figures])
    return table(["method", "k", "bytes", "nDCG@10", "retention", "dense top 10"], cells)


def quickstart_head() -> str:
    """Show the line about the head that the quickstart prints."""
    from csr_hf.training.head_metrics import describe_variance

    found = yaml.safe_load((_QUICKSTART / "recipe.yaml").read_text(encoding="utf-8"))["results"]
    return (
        f"explained variance {describe_variance(found)}, {found['dead_fraction']:.1%} dead latents, "
        f"{found['seconds']:.0f} s"
    )


def short_table() -> str:
    """Compare ways to store an embedding on SciFact, by what they are called in plain words."""
    results = load_results(_GENERAL)
    lines = []
    for (method, k, size), name in _SHORT.items():
        (row,) = results.select(task="SciFact", method=method, k=k, bytes_per_vector=size)
        lines.append([name, f"{size:,}", f"{row.score:.3f}", f"{row.retention:.1%}"])
    return table(["stored for each document", "bytes", "nDCG@10", "kept"], lines)


def tasks_table() -> str:
    """Compare all methods on seven tasks."""
    return load_results(_GENERAL).summary_markdown()


def tasks_mean(method: str, k: int | None) -> str:
    """Average over the seven tasks what a method keeps."""
    kept = [row.retention for row in load_results(_GENERAL).select(method=method, k=k)]
    return f"{sum(kept) / len(kept):.3f}"


def kept_of(head: str, method: str, k: int) -> float:
    """Average over SciFact and MLQuestions what one head, or one head for each task, keeps of nDCG@10."""
    kept = []
    for task, adapted in _TASKS.items():
        folder = f"{head}" if head.startswith("general") else f"{adapted}{head.removeprefix('adapted')}"
        (row,) = load_results(f"all-MiniLM-L6-v2/results/{folder}").select(
            task=task, metric="ndcg_at_10", method=method, k=k
        )
        kept.append(row.retention)
    return sum(kept) / len(kept)


def postings(head: str) -> float:
    """Return the postings that a query and a document share, on average over held-out rows."""
    return load_json(f"all-MiniLM-L6-v2/results/{head}/training.json")["results"]["postings_per_document"]


def adapted_table() -> str:
    """Compare the general head with adapted ones at k = 32, for two depths of the search."""
    lengths = {
        "general": f"{postings('general_k32'):.2f}",
        "adapted": " and ".join(f"{postings(head):.2f}" for head in _TASKS.values()),
    }
    lines = []
    for head, length in lengths.items():
        for suffix, search in (("_2k", "2k, 100"), ("", "4k, 300")):
            name = f"general_k32{suffix}" if head == "general" else f"adapted{suffix}"
            lines.append([head, search, *(f"{kept_of(name, method, 32):.3f}" for method in _METHODS), length])
    return table(["head", "query keeps, candidates", *_METHODS, "postings a query and document"], lines, left=2)


def adapted_by_k_table() -> str:
    """Compare the general head with adapted ones at every k."""
    lines = []
    for k in (4, 8, 16, 32, 64):
        kept = [f"{kept_of(head, method, k):.3f}" for head in ("general_k32", "adapted") for method in _METHODS]
        lines.append([str(k), *kept])
    header = ["k", "general: CSR", "decoded", "+ int8", "adapted: CSR", "decoded", "+ int8"]
    return table(header, lines, left=0)


def pairs_head(method: str, task: str) -> str:
    """Return what the general head that was trained by contrast of pairs keeps of a task."""
    (row,) = load_results("all-MiniLM-L6-v2/results/general_pairs").select(task=task, method=method, k=32)
    return f"{row.retention:.3f}"


def command_of(folder: str) -> str:
    """Show the command that wrote a results file."""
    return command(load_results(folder).details["command"])


REGIONS = {
    "quickstart": quickstart_table,
    "quickstart-head": quickstart_head,
    "scifact": short_table,
    "seven-tasks": tasks_table,
    "seven-tasks-command": partial(command_of, _GENERAL),
    "mean-binary": partial(tasks_mean, "binary", None),
    "mean-decoded-32": partial(tasks_mean, "CSR, decoded", 32),
    "adapted": adapted_table,
    "adapted-by-k": adapted_by_k_table,
    "pairs-scifact": partial(pairs_head, "CSR", "SciFact"),
    "pairs-mlquestions": partial(pairs_head, "CSR", "MLQuestions"),
    "pairs-scifact-decoded": partial(pairs_head, "CSR, decoded", "SciFact"),
    "pairs-mlquestions-decoded": partial(pairs_head, "CSR, decoded", "MLQuestions"),
    "pairs-postings": lambda: f"{postings('general_pairs'):.2f}",
    "general-postings": lambda: f"{postings('general_k32'):.2f}",
}
