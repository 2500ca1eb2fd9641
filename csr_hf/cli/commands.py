"""What the commands of `csr-hf` do with what they were given."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import (
    print_doors,
    print_export,
    print_hits,
    print_line,
    print_tables,
    typed_questions,
)
from csr_hf.cli.recipes import read_recipe
from csr_hf.plumbing.redaction import without_secrets

if TYPE_CHECKING:
    from csr_hf.backends import Backend
    from csr_hf.cli.invocation import Invocation
    from csr_hf.cli.options import CardSettings
    from csr_hf.publishing.model_card import CardOptions


def run(called: Invocation) -> None:
    """Embed, train, evaluate and index as a recipe says."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.searcher import RunSearcher

    recipe = read_recipe(called)
    with processes() as is_first:
        results = pipeline.run(recipe, resume=called.options[0].resume, trust_remote_code=called.trust_remote_code)
    if not is_first:
        return
    print_tables(results)
    if recipe.index.questions:
        searcher = RunSearcher.load(
            recipe.output_dir, device=recipe.backbone.device, trust_remote_code=called.trust_remote_code
        )
        for question in recipe.index.questions:
            print_hits(question, searcher.search(question, 3))
    folder = RunFolder.of(recipe.output_dir)
    files = [f"{folder.model.name}/", f"{folder.index.name}/", *(path.name for path in _figures(folder))]
    print_line(
        f"\nEverything is in {folder.path}/ ({', '.join(files)}). Go on with:\n"
        f'  csr-hf search {folder.path} "how do I ..."\n'
        f"  csr-hf info {folder.path}\n"
        f"  csr-hf encode {folder.model} texts.txt --output codes.safetensors\n"
        f"  csr-hf push {folder.path} user/name"
    )


def embed(called: Invocation) -> None:
    """Embed the texts of a recipe."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline

    recipe = read_recipe(called)
    with processes():
        pipeline.embed(recipe, trust_remote_code=called.trust_remote_code)


def train(called: Invocation) -> None:
    """Embed and train."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline
    from csr_hf.runs.folder import RunFolder

    recipe = read_recipe(called)
    with processes() as is_first:
        data = pipeline.embed(recipe, trust_remote_code=called.trust_remote_code)
        pipeline.train(recipe, data, resume=called.options[0].resume)
    if is_first:
        print_line(f"The head is in {RunFolder.of(recipe.output_dir).model}")


def sweep(called: Invocation) -> None:
    """Train and measure a head for every combination of settings."""
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.sweep import sweep as measure

    recipe = read_recipe(called)
    print_tables(measure(recipe, called.options[1], trust_remote_code=called.trust_remote_code))
    folder = RunFolder.of(recipe.output_dir)
    print_line(f"Everything is in {folder.path}/ ({folder.results.name}, {folder.sweep_plot.name})")


def evaluate(called: Invocation) -> int:
    """Measure a head on MTEB; 1 if a task failed."""
    from csr_hf.runs.mteb_benchmark import evaluate_mteb

    options, arguments = called.options
    benchmark = evaluate_mteb(options.model, options.tasks, arguments)
    print_tables(benchmark.results)
    for task, reason in benchmark.failures.items():
        print_line(f"{task} could not be measured: {reason}")
    return 1 if benchmark.failures else 0


def encode(called: Invocation) -> None:
    """Encode texts into a file."""
    from csr_hf.encoder import CSREncoder
    from csr_hf.plumbing.atomic import check_writable

    (options,) = called.options
    check_writable(options.output.parent)
    texts = _read_texts(options.input, options.column)
    encoder = CSREncoder.from_pretrained(
        options.model, device=called.device, trust_remote_code=called.trust_remote_code
    )
    codes = encoder.encode(
        texts,
        k=options.k,
        refine="pursuit" if options.refine == "pursuit" else bool(options.refine),
        prompt_name=options.prompt_name,
        task=options.task,
        batch_size=options.batch_size,
    )
    codes.astype("float16").save(options.output)
    print_line(f"{codes} in {options.output}")


def export(called: Invocation) -> None:
    """Write a head as a folder that is ready to be shared."""
    from csr_hf.plumbing.atomic import check_writable
    from csr_hf.publishing.export import export as write

    (options,) = called.options
    check_writable(options.output.parent)
    exported = write(
        options.model, options.output, **_layout(options), card=_card(options, options.repo_id), device=called.device
    )
    print_export(exported)
    print_doors(str(options.output), exported)


def push(called: Invocation) -> None:
    """Export to a temporary folder and publish that."""
    import tempfile

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from csr_hf.publishing.export import export as write
    from csr_hf.publishing.hub import push as publish

    (options,) = called.options
    # Of all the bars that the libraries show, those of the upload are wanted.
    show_upload = not (called.no_progress or are_progress_bars_disabled())
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        exported = write(
            options.model,
            Path(temporary) / "model",
            **_layout(options),
            card=_card(options, options.repo_id),
            device=called.device,
        )
        print_export(exported)
        if show_upload:
            enable_progress_bars()
        done = publish(
            exported.folder,
            options.repo_id,
            private=options.private,
            create_pr=options.create_pr,
            revision=options.revision,
            edited_card="keep" if options.keep_card else "overwrite" if options.overwrite_card else "refuse",
        )
    kind = "pull request" if options.create_pr else "pushed"
    print_line(f"{kind}: {done.url}, commit {done.commit}. Load it with:")
    print_doors(done.repo_id, exported, done.revision)


def card(called: Invocation) -> None:
    """Write a model card and what it quotes."""
    from csr_hf.publishing.export import write_card_folder

    (options,) = called.options
    notes = write_card_folder(
        options.model,
        options.output,
        **_layout(options),
        card=_card(options, options.repo_id),
        overwrite=options.overwrite_card,
    )
    for line in [*notes, f"{options.output}/README.md, made from {options.output}/results/"]:
        print_line(line)


def import_head(called: Invocation) -> None:
    """Turn a head that others saved into one of csr_hf."""
    from csr_hf.embedding.loading import load_packed_backbone
    from csr_hf.heads import import_head as read
    from csr_hf.plumbing.atomic import check_writable, write_whole
    from csr_hf.publishing.export import check_target
    from csr_hf.publishing.sentence_transformers import write_full

    (options,) = called.options
    target = check_target(options.output, options.source)
    check_writable(target.parent)
    head, repository = read(options.source, k=options.k, file=options.file, revision=options.revision)
    backbone = None
    if repository is not None and options.base_model is None:
        # Sentence-transformers trains the backbone too: the head fits the one it comes with.
        backbone = load_packed_backbone(repository, options.source, device=called.device)
    base = options.base_model or head.config.base_model_name_or_path
    if base != head.config.base_model_name_or_path:
        head.config.base_model_revision = None
    head.config.base_model_name_or_path = base
    with write_whole(target) as temporary:
        if backbone is not None:
            write_full(backbone, head, temporary)
        else:
            head.save_pretrained(temporary)
    print_line(f"{head.config.input_dim} -> {head.config.hidden_dim}, k {head.config.k}, in {options.output}")
    if backbone is None and base is None:
        print_line("It names no backbone: --base-model says on which one it was trained")


def search(called: Invocation) -> None:
    """Search a finished run by the questions given, or by each that is typed."""
    from csr_hf.plumbing.atomic import check_writable
    from csr_hf.runs.gallery import write_gallery
    from csr_hf.runs.searcher import RunSearcher

    (options,) = called.options
    if options.html:
        check_writable(options.html.parent)
    answers = []
    with _open_backend(options.backend, options.collection, options.run) as backend:
        searcher = RunSearcher.load(
            options.run, device=called.device, backend=backend, trust_remote_code=called.trust_remote_code
        )
        if not options.question:
            print_line(f"{len(searcher.documents):,} documents. Type a question; an empty line ends.")
        for question in options.question or typed_questions():
            began = time.perf_counter()
            hits = searcher.search(question, options.top_k, query_k=options.query_k, candidates=options.candidates)
            print_hits(question, hits, 1000 * (time.perf_counter() - began))
            answers.append((question, hits))
    if options.html:
        write_gallery(options.html, answers)
        print_line(f"\nThe hits with images are in {options.html}")


def index(called: Invocation) -> None:
    """Index a corpus with a head that was trained before."""
    from csr_hf.runs import pipeline

    (options,) = called.options
    recipe = read_recipe(called)
    with _open_backend(options.backend, options.collection, recipe.output_dir) as backend:
        pipeline.index(recipe, backend=backend, trust_remote_code=called.trust_remote_code)
    there = f" --backend {without_secrets(options.backend)}" if options.backend else ""
    there += f" --collection {options.collection}" if options.backend and options.collection else ""
    print_line(f"\nSearch it:\n  csr-hf search {recipe.output_dir}{there}")


def info(called: Invocation) -> None:
    """Describe what a path holds."""
    from csr_hf.runs.describe import describe

    for line in describe(called.options[0].path):
        print_line(line)


def collection_name(folder: str | Path) -> str:
    """Name a collection like an output folder, in characters that every backend takes."""
    name = re.sub(r"[^a-z0-9_]", "_", Path(folder).resolve().name.lower())
    return (name if name[:1].isalpha() else f"c_{name}")[:63]


def _open_backend(
    url: str | None, collection: str | None, folder: str | Path
) -> AbstractContextManager[Backend | None]:
    """Open what `--backend` names; None without it. Each output folder has a collection of its own."""
    if url is None:
        return nullcontext()
    from csr_hf.backends import open_backend

    return open_backend(url, collection or collection_name(folder), api_key=os.environ.get("CSR_HF_BACKEND_API_KEY"))


def _layout(options: CardSettings) -> dict[str, Any]:
    return {"layout": options.layout, "base_model": options.base_model}


def _card(options: CardSettings, repo_id: str | None) -> CardOptions:
    from csr_hf.publishing.model_card import CardOptions

    named = {"repo_id": repo_id} if repo_id else {}
    return CardOptions(**named, license=options.license, datasets=options.dataset)


def _figures(folder: Any) -> list[Path]:
    """List the files of figures that a run wrote."""
    return [path for path in (folder.results, folder.results.with_suffix(".md"), folder.plot) if path.exists()]


def _read_texts(source: str, column: str) -> list[str]:
    if source == "-":
        return sys.stdin.read().splitlines()
    if Path(source).suffix in ("", ".txt"):
        if not Path(source).is_file():
            raise ValueError(f"input {source} does not exist.")
        return Path(source).read_text(encoding="utf-8").splitlines()
    from csr_hf.data.arguments import DataArguments
    from csr_hf.data.sources import load_sources

    (loaded,) = load_sources(DataArguments(source=source, columns={"text": column}, held_out=0))
    return list(loaded.inputs("text"))
