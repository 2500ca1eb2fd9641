"""The commands that make and measure heads: run, embed, train, sweep, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import print_hits, print_line, print_tables, python_search
from csr_hf.cli.recipes import read_recipe
from csr_hf.cli.report import Report, hits_data, results_data

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation
    from csr_hf.data.run_data import RunData
    from csr_hf.runs.folder import RunFolder


def run(called: Invocation) -> Report | None:
    """Embed, train, evaluate and index as a recipe says."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.searcher import RunSearcher

    recipe = read_recipe(called)
    with processes() as is_first:
        results = pipeline.run(
            recipe, overwrite=called.options[0].overwrite, trust_remote_code=called.trust_remote_code
        )
    if not is_first:
        return None
    answers, fields, folder = [], {}, RunFolder.of(recipe.output_dir)
    if recipe.index.questions and folder.has_texts:
        searcher = RunSearcher.load(
            recipe.output_dir, device=recipe.backbone.device, trust_remote_code=called.trust_remote_code
        )
        fields = searcher.find_fields()
        answers = [(question, searcher.search(question, 3)) for question in recipe.index.questions]

    def show() -> None:
        print_tables(results)
        if results is not None and results.describe_index():
            print_line(results.describe_index())
        for question, hits in answers:
            print_hits(question, hits, fields)
        print_line(f"\nEverything is in {folder.path}/ ({', '.join(_written(folder))}).")

    return Report(
        {
            "output_dir": folder.path,
            "files": _written(folder),
            "results": results_data(results),
            "answers": [hits_data(*answer) for answer in answers],
        },
        show,
        ["Go on with:", *_list_next(folder)],
    )


def _list_next(folder: RunFolder) -> list[str]:
    """List what can be done with a run; one of embeddings has no texts, and nothing that embeds a question."""
    if not folder.has_texts:
        return [f"  {python_search(folder)}", f"  csr-hf info {folder.path}"]
    return [
        f'  csr-hf search {folder.path} "how do I ..."',
        f"  csr-hf info {folder.path}",
        f"  csr-hf encode {folder.model} texts.txt --output codes.safetensors",
        f"  csr-hf push {folder.path} user/name",
    ]


def embed(called: Invocation) -> Report | None:
    """Embed the texts of a recipe."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs.embedding import embed as embed_roles

    recipe = read_recipe(called)
    with processes() as is_first:
        data = embed_roles(recipe, trust_remote_code=called.trust_remote_code)
    return Report({"sources": _describe_sources(data)}) if is_first else None


def train(called: Invocation) -> Report | None:
    """Embed and train."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.recipe import RunRecipe

    recipe = read_recipe(called)
    with processes() as is_first:
        pipeline.embed_and_train(
            recipe, overwrite=called.options[0].overwrite, trust_remote_code=called.trust_remote_code
        )
    if not is_first:
        return None
    folder = RunFolder.of(recipe.output_dir)
    return Report(
        {"model": folder.model, "figures": RunRecipe.recorded(folder.recipe, "results")},
        lambda: print_line(f"The head is in {folder.model}"),
    )


def sweep(called: Invocation) -> Report:
    """Train and measure a head for every combination of settings."""
    from csr_hf.evaluation.sweep_plot import shorten_names
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.sweep import sweep as measure

    recipe, (options, arguments) = read_recipe(called), called.options
    trust = called.trust_remote_code
    results = measure(recipe, arguments, overwrite=options.overwrite, trust_remote_code=trust)
    folder = RunFolder.of(recipe.output_dir)

    def show() -> None:
        print_tables(shorten_names(results))
        print_line(f"Everything is in {folder.path}/ ({', '.join(_written(folder))})")

    return Report({"output_dir": folder.path, "files": _written(folder), "results": results_data(results)}, show)


def evaluate(called: Invocation) -> Report:
    """Measure a head on MTEB; exit code 1 if a task failed."""
    from csr_hf.runs.mteb_benchmark import evaluate_mteb

    options, arguments = called.options
    benchmark = evaluate_mteb(options.model, options.tasks, arguments)

    def show() -> None:
        print_tables(benchmark.results)
        for task, reason in benchmark.failures.items():
            print_line(f"{task} could not be measured: {reason}")

    data = {"results": results_data(benchmark.results), "failures": benchmark.failures}
    return Report(data, show, code=1 if benchmark.failures else 0)


def _written(folder: RunFolder) -> list[str]:
    """Name what a run has written for its user, folders with a slash; nothing that is not there."""
    figures = folder.results, folder.results.with_suffix(".md"), folder.plot, folder.sweep_plot
    return [_shown(path) for path in (folder.model, folder.index, *figures) if path.exists()]


def _shown(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name


def _describe_sources(data: RunData) -> list[dict[str, Any]]:
    return [
        {
            "name": source.name,
            "rows": len(source),
            "held_out": int(source.held_out.sum()),
            "embeddings": {role: _describe_vectors(vectors) for role, vectors in source.vectors.items()},
        }
        for source in data.sources
    ]


def _describe_vectors(vectors: Any) -> dict[str, Any]:
    rows, dim = vectors.shape
    return {"rows": rows, "dim": dim, "cache": getattr(vectors, "folder", None)}
