"""Measure an embedding model by MTEB tasks, whole and cut to its first dimensions, within given bytes of a document.

    python recipes/paper/text_tasks.py runs/matryoshka/minutes_60 --tasks STSBenchmark,Banking77Classification \
        --output runs/matryoshka/tasks_60

What `csr-hf evaluate` calls "truncation", for a model that has no head.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from csr_hf.embedding.loading import load_backbone
from csr_hf.evaluation.baselines import make_baselines
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.methods import describe_methods
from csr_hf.evaluation.tasks import HeadMeta, evaluate_tasks, load_tasks
from csr_hf.evaluation.vector_method import DenseMethod
from csr_hf.plumbing.provenance import provenance, record_command

BUDGETS = "16,24,48,64,96,128"


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
    tasks = load_tasks(options.tasks.split(","))
    budgets = [int(size) for size in options.bytes.split(",")]
    backbone = load_backbone(options.model, device="cpu")
    similarity = backbone.similarity_fn_name
    rivals = make_baselines(["truncate"], None, backbone.dim, budgets, similarity, always_whole=False)
    benchmark = evaluate_tasks(
        tasks,
        [DenseMethod(backbone.dim, similarity), *rivals],
        CachedBackbone(backbone, options.embeddings),
        options.output,
        HeadMeta(f"local/{Path(options.model).name}", backbone.fingerprint),
        {
            **provenance(),
            "note": describe_methods(budgets),
            "budgets": budgets,
            "backbone": backbone.fingerprint,
            "similarity": similarity,
        },
    )
    for name, reason in benchmark.failures.items():
        sys.stderr.write(f"{name}: {reason}\n")
    return int(bool(benchmark.failures))


if __name__ == "__main__":
    sys.exit(main())
