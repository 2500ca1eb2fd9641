"""The command line: `csr-hf run | embed | train | encode | export | import | search | info`."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    from csr_hf.recipe import Recipe

_RECIPE_NOTE = """
Any key of the recipe can be given as a flag and wins over the file: --training.max_steps 500 --data.source my.csv
"""
_EXAMPLES = {
    "run": """
  csr-hf run recipes/quickstart.yaml
  csr-hf run recipes/quickstart.yaml --limit 20000 --output-dir runs/large
  csr-hf run recipes/quickstart.yaml --data.source faq.csv --data.columns '{anchor: question, positive: answer}'
""",
    "embed": """
  csr-hf embed recipes/quickstart.yaml
  csr-hf embed recipes/quickstart.yaml --limit 100000 --backbone.batch_size 64
""",
    "train": """
  csr-hf train recipes/quickstart.yaml --k 16
  csr-hf train recipes/quickstart.yaml --resume
""",
    "encode": """
  csr-hf encode runs/quickstart/model texts.txt --output codes.safetensors
  csr-hf encode runs/quickstart/model faq.csv --column answer --k 16 --output codes.safetensors
""",
    "export": """
  csr-hf export runs/quickstart/model exported
  python -c "from sentence_transformers import SparseEncoder; print(SparseEncoder('exported').encode(['a text']))"
""",
    "import": """
  csr-hf import a-sparse-encoder-folder imported
""",
    "search": """
  csr-hf search runs/quickstart "how do I read a file line by line"
  csr-hf search runs/quickstart "invert a matrix" --top-k 3 --candidates 300
""",
    "info": """
  csr-hf info runs/quickstart
  csr-hf info runs/quickstart/model
  csr-hf info codes.safetensors
""",
}


class _Parser(argparse.ArgumentParser):
    """Wrong arguments give one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"csr-hf: error: {message}. `{self.prog} --help` shows examples.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; default that of this process.

    Returns:
        0, or 2 when the input was wrong (one line on stderr; the traceback with `--debug`).
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(command_line)
    options.command_line = "csr-hf " + shlex.join(command_line)
    if not options.debug:
        _quiet()
    try:
        options.overrides = _overrides(rest) if options.takes_recipe else {}
        if rest and not options.takes_recipe:
            raise ValueError(f"unknown argument {rest[0]!r}. `csr-hf {options.command} --help` lists what there is.")
        options.call(options, _console())
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"csr-hf: error: {_one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("csr-hf: interrupted; what was finished is kept, the same command goes on from there\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks, warnings and the log")
    common.add_argument("--no-progress", action="store_true", help="no progress bars")
    common.add_argument("--device", help="cpu, cuda, ...; default the best at hand")
    parser = _Parser(
        prog="csr-hf",
        description="Sparse, adaptive embeddings from any sentence-transformers model.",
        epilog="`csr-hf COMMAND --help` shows examples.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, call: Any, summary: str, takes_recipe: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            parents=[common],
            allow_abbrev=False,
            description=summary[0].upper() + summary[1:] + "." + (_RECIPE_NOTE if takes_recipe else ""),
            epilog="examples:" + _EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(call=call, takes_recipe=takes_recipe)
        if takes_recipe:
            _add_recipe_flags(command)
        return command

    run = add("run", _run, "embed, train, evaluate and index, as a recipe says", takes_recipe=True)
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    add("embed", _embed, "embed the texts of a recipe into the cache", takes_recipe=True)
    train = add("train", _train, "train a head (embeds first if need be)", takes_recipe=True)
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    _add_encode_flags(add("encode", _encode, "encode texts into a file of sparse codes"))
    export = add("export", _export, "write backbone and head as one folder that sentence-transformers loads")
    export.add_argument("model", help="folder or Hub id of a head")
    export.add_argument("output", type=Path, help="folder to write")
    bring = add("import", _import, "turn a head saved by sentence-transformers into one of csr_hf")
    bring.add_argument("source", type=Path, help="folder of a SparseEncoder or of its SparseAutoEncoder")
    bring.add_argument("output", type=Path, help="folder to write")
    bring.add_argument("--base-model", help="the backbone it was trained on: Hub id or folder")
    _add_search_flags(add("search", _search, "ask a finished run"))
    info = add("info", _info, "say what a run, model, index, cache or file of codes holds")
    info.add_argument("path", type=Path, help="folder or file")
    return parser


def _add_recipe_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="YAML file")
    command.add_argument("--output-dir", dest="output_dir", help="where everything goes")
    command.add_argument("--limit", type=int, help="rows of the data to use")
    command.add_argument("--k", type=int, help="active latents of a code")


def _add_encode_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="folder or Hub id of a head")
    command.add_argument("input", help="one text a line (.txt, - for stdin), or csv, jsonl, parquet with --column")
    command.add_argument("--output", "-o", type=Path, required=True, help="safetensors file to write")
    command.add_argument("--column", default="text", help="column of a data file (default: %(default)s)")
    command.add_argument("--k", type=int, help="active latents (default: the head's)")
    command.add_argument(
        "--refine",
        choices=["values", "pursuit"],
        help="better codes for documents: least-squares values, or support and values by matching pursuit",
    )
    command.add_argument("--prompt-name", help="one of the backbone's prompts")
    command.add_argument("--batch-size", type=int, default=32, help="texts in one pass (default: %(default)s)")


def _add_search_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="output folder of `csr-hf run`")
    command.add_argument("question", nargs="+", help="one or more questions, quoted")
    command.add_argument("--top-k", type=int, default=5, help="answers to show (default: %(default)s)")
    command.add_argument("--query-k", type=int, help="latents of the query (default: the recipe's)")
    command.add_argument("--candidates", type=int, help="documents to rescore (default: the recipe's)")


def _run(options: argparse.Namespace, console: Console) -> None:
    from csr_hf import pipeline

    recipe = _recipe(options)
    results = pipeline.run(
        recipe,
        say=_say(console),
        progress=not options.no_progress,
        resume=options.resume,
        command=options.command_line,
    )
    for table in results.to_tables() if results else ():
        console.print(table)
    searcher = pipeline.RunSearcher.load(recipe.output_dir, device=recipe.backbone.device)
    for question in recipe.index.questions:
        _print_hits(console, question, searcher.search(question, 3))
    folder = recipe.output_dir
    console.print(
        f"\nEverything is in {folder}/ (results.md, retention.png, model/, index/). Go on with:\n"
        f'  csr-hf search {folder} "how do I ..."\n'
        f"  csr-hf info {folder}\n"
        f"  csr-hf encode {folder}/model texts.txt --output codes.safetensors",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _embed(options: argparse.Namespace, console: Console) -> None:
    from csr_hf import pipeline

    pipeline.embed(_recipe(options), say=_say(console), progress=not options.no_progress)


def _train(options: argparse.Namespace, console: Console) -> None:
    from csr_hf import pipeline

    recipe, progress = _recipe(options), not options.no_progress
    embedded = pipeline.embed(recipe, say=_say(console), progress=progress)
    pipeline.train(recipe, embedded, say=_say(console), progress=progress, resume=options.resume)
    console.print(f"The head is in {recipe.output_dir}/model", highlight=False, soft_wrap=True)


def _encode(options: argparse.Namespace, console: Console) -> None:
    from csr_hf.atomic import check_writable
    from csr_hf.encoder import CSREncoder

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


def _export(options: argparse.Namespace, console: Console) -> None:
    from csr_hf.atomic import check_writable
    from csr_hf.encoder import CSREncoder
    from csr_hf.publishing.sentence_transformers import export_sentence_transformers

    check_writable(options.output.parent)
    export_sentence_transformers(CSREncoder.from_pretrained(options.model, device=options.device), options.output)
    _say(console)(f"Load it with SparseEncoder({str(options.output)!r}) or CSREncoder.from_pretrained(...)")


def _import(options: argparse.Namespace, console: Console) -> None:
    from csr_hf.atomic import check_writable, written_whole
    from csr_hf.publishing.sentence_transformers import import_sparse_autoencoder

    check_writable(options.output.parent)
    head = import_sparse_autoencoder(options.source)
    head.config.base_model_name_or_path = options.base_model
    with written_whole(options.output) as temporary:
        head.save_pretrained(temporary)
    _say(console)(f"{head.config.input_dim} -> {head.config.hidden_dim}, k {head.config.k}, in {options.output}")


def _search(options: argparse.Namespace, console: Console) -> None:
    from csr_hf.pipeline import RunSearcher

    searcher = RunSearcher.load(options.run, device=options.device)
    for question in options.question:
        hits = searcher.search(question, options.top_k, query_k=options.query_k, candidates=options.candidates)
        _print_hits(console, question, hits)


def _info(options: argparse.Namespace, console: Console) -> None:
    from csr_hf.description import describe

    for line in describe(options.path):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_hits(console: Console, question: str, hits: list) -> None:
    console.print(f"\n[bold]{question}[/bold]", highlight=False)
    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        console.print(f"  {rank}. {hit.score:.3f}  {hit.id}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"     {text[:100]}", markup=False, highlight=False, style="dim", soft_wrap=True)


def _recipe(options: argparse.Namespace) -> Recipe:
    from csr_hf.recipe import Recipe

    flags = {
        "output_dir": options.output_dir,
        "data.limit": options.limit,
        "model.k": options.k,
        "backbone.device": options.device,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return Recipe.load(options.recipe, {**options.overrides, **given})


def _overrides(rest: list[str]) -> dict[str, Any]:
    """`--section.key value` and `--section.key=value`, values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    remaining = list(rest)
    while remaining:
        flag = remaining.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("--") or "." not in name:
            raise ValueError(f"unknown argument {flag!r}. Keys of the recipe are flags like --training.max_steps 500.")
        if not equals:
            if not remaining:
                raise ValueError(f"{name} needs a value.")
            value = remaining.pop(0)
        try:
            found[name[2:]] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{name}: {value!r} is not a YAML value.") from error
    return found


def _texts(source: str, column: str) -> list[str]:
    if source == "-":
        return sys.stdin.read().splitlines()
    if Path(source).suffix in ("", ".txt"):
        if not Path(source).is_file():
            raise ValueError(f"input {source} does not exist.")
        return Path(source).read_text(encoding="utf-8").splitlines()
    from csr_hf.training.data import DataArguments, load_texts

    return list(load_texts(DataArguments(source=source, columns={"text": column}, held_out=0)).dataset["text"])


def _console() -> Console:
    from rich.console import Console

    return Console()


def _say(console: Console) -> Any:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return say


def _quiet() -> None:
    """Only our own news: the libraries below have bars and warnings for every file they touch."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())


if __name__ == "__main__":
    sys.exit(main())
