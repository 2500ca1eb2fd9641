"""What the commands of `csr-hf` do once their arguments are read."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.flags import collection_of, recipe_of
from csr_hf.plumbing.redaction import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from csr_hf.backends import Backend
    from csr_hf.publishing.export import Exported


def run(options: argparse.Namespace, console: Console) -> None:
    """Embed, train, evaluate and index as a recipe says."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline
    from csr_hf.runs.searcher import RunSearcher

    recipe = recipe_of(options)
    with processes() as is_first:
        results = pipeline.run(
            recipe,
            say=_say(console),
            progress=is_first and not options.no_progress,
            resume=options.resume,
            command=options.command_line,
        )
    if not is_first:
        return
    for table in results.to_tables() if results else ():
        console.print(table)
    if recipe.index.questions:
        searcher = RunSearcher.load(recipe.output_dir, device=recipe.backbone.device)
        for question in recipe.index.questions:
            _print_hits(console, question, searcher.search(question, 3))
    folder = recipe.output_dir
    console.print(
        f"\nEverything is in {folder}/ (results.md, retention.png, model/, index/). Go on with:\n"
        f'  csr-hf search {folder} "how do I ..."\n'
        f"  csr-hf info {folder}\n"
        f"  csr-hf encode {folder}/model texts.txt --output codes.safetensors\n"
        f"  csr-hf push {folder} user/name",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def embed(options: argparse.Namespace, console: Console) -> None:
    """Embed the texts of a recipe."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline

    recipe = recipe_of(options)
    with processes() as is_first:
        pipeline.embed(recipe, say=_say(console), progress=is_first and not options.no_progress)


def train(options: argparse.Namespace, console: Console) -> None:
    """Embed and train."""
    from csr_hf.plumbing.distributed import processes
    from csr_hf.runs import pipeline

    recipe = recipe_of(options)
    with processes() as is_first:
        progress = is_first and not options.no_progress
        embedded = pipeline.embed(recipe, say=_say(console), progress=progress)
        pipeline.train(recipe, embedded, say=_say(console), progress=progress, resume=options.resume)
    if is_first:
        console.print(f"The head is in {recipe.output_dir}/model", highlight=False, soft_wrap=True)


def sweep(options: argparse.Namespace, console: Console) -> None:
    """Train and measure a head for every combination of settings."""
    from csr_hf.runs.sweep import sweep as measure

    recipe = recipe_of(options)
    results = measure(
        recipe,
        hidden_dims=options.hidden_dim,
        ks=options.ks,
        max_steps=options.max_steps,
        presets=options.presets,
        variants=options.variants,
        say=_say(console),
        progress=not options.no_progress,
        command=options.command_line,
    )
    for table in results.to_tables():
        console.print(table)
    _say(console)(f"Everything is in {recipe.output_dir}/ (results.json, sweep.png)")


def evaluate(options: argparse.Namespace, console: Console) -> int:
    """Measure a head on MTEB; 1 if a task failed."""
    from csr_hf.runs.mteb_benchmark import evaluate as measure

    say = _say(console)
    benchmark = measure(
        options.model,
        options.tasks,
        ks=options.k,
        baselines=options.baselines,
        two_stage=options.two_stage,
        query_k_factor=options.query_k_factor,
        candidates=options.candidates,
        output_dir=options.output_dir,
        submit_dir=options.submit_dir,
        trained_on=options.trained_on,
        batch_size=options.batch_size,
        device=options.device,
        progress=not options.no_progress,
        say=say,
        command=options.command_line,
    )
    for table in benchmark.results.to_tables():
        console.print(table)
    for task, reason in benchmark.failures.items():
        say(f"{task} could not be measured: {reason}")
    return 1 if benchmark.failures else 0


def bench(options: argparse.Namespace, console: Console) -> None:
    """Measure speed beside the rivals."""
    from csr_hf.bench import command

    {"train": command.train, "search": command.search}[options.what](options, console, _say(console))


def encode(options: argparse.Namespace, console: Console) -> None:
    """Encode texts into a file."""
    from csr_hf.encoder import CSREncoder
    from csr_hf.plumbing.atomic import check_writable

    check_writable(options.output.parent)
    texts = _texts(options.input, options.column)
    encoder = CSREncoder.from_pretrained(options.model, device=options.device)
    codes = encoder.encode(
        texts,
        k=options.k,
        refine="pursuit" if options.refine == "pursuit" else bool(options.refine),
        prompt_name=options.prompt_name,
        batch_size=options.batch_size,
        progress=not options.no_progress,
    )
    codes.astype("float16").save(options.output)
    console.print(f"{codes} in {options.output}", highlight=False, soft_wrap=True)


def export(options: argparse.Namespace, console: Console) -> None:
    """Write a head as a folder that is ready to be shared."""
    from csr_hf.plumbing.atomic import check_writable
    from csr_hf.publishing.export import export as write

    check_writable(options.output.parent)
    exported = write(options.model, options.output, **_export_options(options))
    _tell_exported(exported, _say(console))
    _say(console)(_how_to_load(str(options.output), exported))


def push(options: argparse.Namespace, console: Console) -> None:
    """Export to a temporary folder and publish that."""
    import tempfile

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from csr_hf.publishing.export import export as write
    from csr_hf.publishing.hub import push as publish

    say = _say(console)
    # Of all the bars that the libraries show, those of the upload are wanted.
    show_upload = not (options.no_progress or are_progress_bars_disabled())
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        exported = write(options.model, Path(temporary) / "model", **_export_options(options))
        _tell_exported(exported, say)
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
    say(f"{'pull request' if options.create_pr else 'pushed'}: {done.url}, commit {done.commit}. Load it with:")
    say(_how_to_load(done.repo_id, exported, done.revision))


def card(options: argparse.Namespace, console: Console) -> None:
    """Write a model card and what it quotes."""
    from csr_hf.publishing.export import write_card_folder

    settings = _export_options(options)
    settings.pop("device")
    notes = write_card_folder(options.model, options.output, overwrite=options.overwrite_card, **settings)
    for line in [*notes, f"{options.output}/README.md, made from {options.output}/results/"]:
        _say(console)(line)


def import_head(options: argparse.Namespace, console: Console) -> None:
    """Turn a head that others saved into one of csr_hf."""
    from csr_hf.embedding.backbone import load_packed_backbone
    from csr_hf.encoder import CSREncoder
    from csr_hf.heads import import_head as read
    from csr_hf.plumbing.atomic import check_writable, written_whole
    from csr_hf.publishing.export import check_target
    from csr_hf.publishing.sentence_transformers import write_full

    target = check_target(options.output, options.source)
    check_writable(target.parent)
    head, repository = read(options.source, k=options.k, file=options.file, revision=options.revision)
    backbone = None
    if repository is not None and options.base_model is None:
        # Sentence-transformers trains the backbone too: the head fits the one it comes with.
        backbone = load_packed_backbone(repository, options.source, device=options.device)
    base = options.base_model or head.config.base_model_name_or_path
    if base != head.config.base_model_name_or_path:
        head.config.base_model_revision = None
    head.config.base_model_name_or_path = base
    with written_whole(target) as temporary:
        if backbone is not None:
            write_full(CSREncoder(backbone, head), temporary)
        else:
            head.save_pretrained(temporary)
    say = _say(console)
    say(f"{head.config.input_dim} -> {head.config.hidden_dim}, k {head.config.k}, in {options.output}")
    if backbone is None and base is None:
        say("It names no backbone: --base-model says on which one it was trained")


def search(options: argparse.Namespace, console: Console) -> None:
    """Ask a finished run: the questions given, or one after the other as they are typed."""
    from csr_hf.plumbing.atomic import check_writable
    from csr_hf.runs.gallery import write_gallery
    from csr_hf.runs.searcher import RunSearcher

    if options.html:
        check_writable(options.html.parent)
    answers = []
    with _engine(options, options.run) as engine:
        searcher = RunSearcher.load(options.run, device=options.device, engine=engine)
        if not options.question:
            count = len(searcher.documents)
            console.print(f"{count:,} documents. Type a question; an empty line ends.", highlight=False)
        for question in options.question or _typed(console):
            began = time.perf_counter()
            hits = searcher.search(question, options.top_k, query_k=options.query_k, candidates=options.candidates)
            _print_hits(console, question, hits, 1000 * (time.perf_counter() - began))
            answers.append((question, hits))
    if options.html:
        write_gallery(options.html, answers)
        _say(console)(f"\nThe answers with pictures are in {options.html}")


def _engine(options: argparse.Namespace, folder: str | Path) -> AbstractContextManager[Backend | None]:
    """What `--engine` names, open; None without it. Each output folder has a collection of its own."""
    if options.engine is None:
        return nullcontext()
    from csr_hf.backends import open_backend

    collection = options.collection or collection_of(folder)
    return open_backend(options.engine, collection, api_key=os.environ.get("CSR_HF_ENGINE_API_KEY"))


def _typed(console: Console) -> Iterator[str]:
    """Lines from the terminal or a pipe, up to an empty one."""
    while True:
        try:
            line = console.input("[bold]> [/bold]" if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def index(options: argparse.Namespace, console: Console) -> None:
    """Index a corpus with a head that was trained before."""
    from csr_hf.runs import pipeline

    recipe = recipe_of(options)
    with _engine(options, recipe.output_dir) as engine:
        pipeline.index(recipe, say=_say(console), progress=not options.no_progress, engine=engine)
    there = f" --engine {without_secrets(options.engine)}" if options.engine else ""
    there += f" --collection {options.collection}" if options.engine and options.collection else ""
    line = f"\nAsk it:\n  csr-hf search {recipe.output_dir}{there}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def info(options: argparse.Namespace, console: Console) -> None:
    """Describe what a path holds."""
    from csr_hf.runs.describe import describe

    for line in describe(options.path):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _export_options(options: argparse.Namespace) -> dict[str, Any]:
    from csr_hf.publishing.model_card import CardOptions

    facts = {"license": options.license, "datasets": options.dataset}
    return {
        "layout": options.layout,
        "base_model": options.base_model,
        "card": CardOptions(**({"repo_id": options.repo_id} if options.repo_id else {}), **facts),
        "device": options.device,
    }


def _tell_exported(exported: Exported, say: Any) -> None:
    for line in [f"layout     {exported.layout}: {exported.reason}", *exported.notes]:
        say(line)


def _how_to_load(name: str, exported: Exported, revision: str | None = None) -> str:
    """A line a door."""
    at, module = f', revision="{revision}"' if revision else "", exported.module
    whole, alone = f'SparseEncoder("{name}"{at})', f'{module}.load("{name}", "{module}"{at})'
    doors = {
        f'CSREncoder.from_pretrained("{name}"{at})': "csr_hf",
        whole if exported.layout == "full" else alone: "sentence-transformers",
        f'AutoModel.from_pretrained("{name}"{at}, trust_remote_code=True)': "transformers",
    }
    width = max(map(len, doors))
    return "\n".join(f"  {call:{width}}  # {library}" for call, library in doors.items())


def _print_hits(console: Console, question: str, hits: list, milliseconds: float | None = None) -> None:
    from rich.text import Text

    heading = Text(f"\n{question}", style="bold")
    if milliseconds is not None:
        heading.append(f"  {milliseconds:.0f} ms", style="not bold dim")
    console.print(heading, soft_wrap=True)
    if not hits:
        console.print("  nothing found", highlight=False)
    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        console.print(f"  {rank}. {hit.score:.3f}  {hit.id}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"     {text[:100]}", markup=False, highlight=False, style="dim", soft_wrap=True)


def _texts(source: str, column: str) -> list[str]:
    if source == "-":
        return sys.stdin.read().splitlines()
    if Path(source).suffix in ("", ".txt"):
        if not Path(source).is_file():
            raise ValueError(f"input {source} does not exist.")
        return Path(source).read_text(encoding="utf-8").splitlines()
    from csr_hf.data.arguments import DataArguments
    from csr_hf.data.sources import load_data

    return list(load_data(DataArguments(source=source, columns={"text": column}, held_out=0))[0].dataset["text"])


def _say(console: Console) -> Any:
    """Prints a line; of several processes only the first speaks."""
    from csr_hf.plumbing.distributed import rank_and_world

    def say(line: str) -> None:
        if rank_and_world()[0] == 0:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return say
