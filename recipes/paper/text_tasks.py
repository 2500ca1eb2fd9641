"""Measure an embedding model by MTEB tasks, whole and cut to its first dimensions, within given bytes of a document.

    python recipes/paper/text_tasks.py runs/matryoshka/minutes_60 --tasks STSBenchmark,Banking77Classification \
        --output runs/matryoshka/tasks_60

What `csr-hf evaluate` calls "truncation", for a model that has no head.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.embedding.loading import load_backbone
from csr_hf.evaluation.baselines import make_baselines
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.methods import describe_methods
from csr_hf.evaluation.tasks import Benchmark, HeadMeta, evaluate_tasks, load_tasks
from csr_hf.evaluation.vector_method import DenseMethod
from csr_hf.plumbing.provenance import provenance, record_command

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

BUDGETS = "16,24,48,64,96,128"


def measure(
    model: str, tasks: Mapping[str, AbsTask], budgets: Sequence[int], output: Path, embeddings: str | Path
) -> Benchmark:
    """Measure a model on tasks; what is done is not done again.

    Args:
        model: folder or name of a sentence-transformers model.
        tasks: of `load_tasks`.
        budgets: bytes of a document.
        output: folder to write results into.
        embeddings: folder that keeps embeddings.
    """
    backbone = load_backbone(model, device="cpu")
    similarity = backbone.similarity_fn_name
    cut = make_baselines(["truncate"], None, backbone.dim, budgets, similarity, always_whole=False)
    details = {
        **provenance(),
        "note": describe_methods(budgets),
        "budgets": list(budgets),
        "backbone": backbone.fingerprint,
        "similarity": similarity,
    }
    cached, named = CachedBackbone(backbone, embeddings), HeadMeta(f"local/{Path(model).name}", backbone.fingerprint)
    return evaluate_tasks(tasks, [DenseMethod(backbone.dim, similarity), *cut], cached, output, named, details)


def main() -> int:
    """Measure; 1 if a task failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or name of a sentence-transformers model")
    parser.add_argument("--tasks", required=True, help="as `csr-hf evaluate` takes them")
    parser.add_argument("--bytes", default=BUDGETS, help="budgets (default: %(default)s)")
    parser.add_argument("--embeddings", default="runs/embeddings", help="where they are kept (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    record_command(shlex.join(["python", "recipes/paper/text_tasks.py", *sys.argv[1:]]))
    budgets = [int(size) for size in options.bytes.split(",")]
    tasks = load_tasks(options.tasks.split(","))
    benchmark = measure(options.model, tasks, budgets, options.output, options.embeddings)
    for name, reason in benchmark.failures.items():
        sys.stderr.write(f"{name}: {reason}\n")
    return int(bool(benchmark.failures))


if __name__ == "__main__":
    sys.exit(main())
