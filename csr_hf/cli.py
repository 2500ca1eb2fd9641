"""The command line: `csr-hf COMMAND ...`; what the commands do is in commands.py."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from csr_hf import commands
from csr_hf.redaction import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

_RECIPE_NOTE = """
Any key of the recipe can be given as a flag and wins over the file: --training.max_steps 500 --data.source my.csv
"""
_EXAMPLES = {
    "run": """
  csr-hf run recipes/quickstart.yaml
  csr-hf run recipes/quickstart.yaml --limit 20000 --output-dir runs/large
  csr-hf run --corpus docs.parquet --text-column body --output-dir runs/docs
  csr-hf run recipes/quickstart.yaml --data.source faq.csv --data.columns '{anchor: question, positive: answer}'
""",
    "embed": """
  csr-hf embed recipes/quickstart.yaml
  csr-hf embed recipes/quickstart.yaml --limit 100000 --backbone.batch_size 64
""",
    "train": """
  csr-hf train recipes/quickstart.yaml --k 16
  csr-hf train recipes/quickstart.yaml --resume
  csr-hf train --corpus docs.parquet --text-column body
  csr-hf train --corpus docs.parquet --text-column body --head user/minilm-csr
  torchrun --nproc_per_node 2 -m csr_hf.cli train recipes/quickstart.yaml
""",
    "evaluate": """
  csr-hf evaluate runs/quickstart --tasks SciFact,STSBenchmark
  csr-hf evaluate runs/quickstart --tasks Banking77Classification --k 8,32 --baselines pca,pq
  csr-hf evaluate user/minilm-csr --tasks MTOPIntentClassification:en:test
""",
    "sweep": """
  csr-hf sweep recipes/quickstart.yaml --hidden-dim 1x,2x,4x,8x --output-dir runs/widths
  csr-hf sweep recipes/quickstart.yaml --k 8,16,32 --max-steps 250,1000 --output-dir runs/lengths
  csr-hf sweep recipes/quickstart.yaml --preset csr,csrv2,csr_hf --k 4,8,16,32,64 --output-dir runs/presets
  csr-hf sweep recipes/quickstart.yaml --variant training.balance=0 --variant training.balance=2,training.cosine=1
""",
    "bench": """
  csr-hf bench train
  csr-hf bench train --input-dim 4096 --hidden-dim 16384 --batch-size 4096 --output bench/train.json
""",
    "encode": """
  csr-hf encode runs/quickstart/model texts.txt --output codes.safetensors
  csr-hf encode runs/quickstart/model faq.csv --column answer --k 16 --output codes.safetensors
""",
    "export": """
  csr-hf export runs/quickstart exported
  csr-hf export runs/quickstart exported --layout head
  python -c "from sentence_transformers import SparseEncoder; print(SparseEncoder('exported').encode(['a text']))"
""",
    "push": """
  csr-hf push runs/quickstart user/minilm-csr
  csr-hf push runs/quickstart user/minilm-csr --private --license apache-2.0
  csr-hf push runs/quickstart user/minilm-csr --create-pr
  csr-hf push runs/quickstart user/minilm-csr --revision experiment --layout head
""",
    "card": """
  csr-hf card runs/quickstart card --repo-id user/minilm-csr
  csr-hf card runs/quickstart card --repo-id user/minilm-csr --license apache-2.0 --dataset user/questions
""",
    "import": """
  csr-hf import user/a-sparse-encoder imported
  csr-hf import a-sparse-encoder/3_SparseAutoEncoder imported --base-model mixedbread-ai/mxbai-embed-large-v1
  csr-hf import ckpt/CSR_topk_32/checkpoint_9.pth imported
  csr-hf import checkpoint.safetensors imported --k 32
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


_DOTTED = re.compile(r"--\w+(\.\w+)+(=|$)")


class _Parser(argparse.ArgumentParser):
    """Wrong arguments give one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"csr-hf: error: {message}. `{self.prog} --help` shows examples.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; default that of this process.

    Returns:
        0; 1 when a part of the work failed and the rest was done; 2 when the input was wrong (one line on stderr; the
        traceback with `--debug`).
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    # First, lest their values be taken for the recipe.
    plain, dotted = _split(command_line)
    options, rest = parser.parse_known_args(plain)
    options.command_line = without_secrets("csr-hf " + shlex.join(command_line))
    if not options.debug:
        _quiet(progress=options.command == "push" and not options.no_progress)
    try:
        unknown = rest if options.takes_recipe else [*rest, *dotted]
        if unknown:
            hint = " Keys of the recipe are flags like --training.max_steps 500." if options.takes_recipe else ""
            raise ValueError(
                f"unknown argument {unknown[0]!r}.{hint} `csr-hf {options.command} --help` lists what there is."
            )
        options.overrides = _overrides(dotted) if options.takes_recipe else {}
        return options.call(options, _console()) or 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"csr-hf: error: {_one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("csr-hf: interrupted; what was finished is kept, the same command goes on from there\n")
        return 130


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
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, call: Any, summary: str, takes_recipe: bool = False) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
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
            _add_recipe_flags(command, with_k=name != "sweep")
        return command

    run = add("run", commands.run, "embed, train, evaluate and index, as a recipe says", takes_recipe=True)
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    add("embed", commands.embed, "embed the texts of a recipe into the cache", takes_recipe=True)
    train = add("train", commands.train, "train a head (embeds first if need be)", takes_recipe=True)
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    _add_sweep_flags(add("sweep", commands.sweep, "train and measure a head for every combination", takes_recipe=True))
    _add_evaluate_flags(add("evaluate", commands.evaluate, "measure a head and its rivals on MTEB"))
    _add_bench_flags(add("bench", commands.bench, "measure speed beside the rivals, in one run"))
    _add_encode_flags(add("encode", commands.encode, "encode texts into a file of sparse codes"))
    _add_publishing_flags(add("export", commands.export, "write a head as a folder that every library loads"))
    push = add("push", commands.push, "publish a head on the Hub, as one commit")
    _add_publishing_flags(push)
    _add_push_flags(push)
    _add_publishing_flags(add("card", commands.card, "write the model card of a run, and the files it quotes"))
    _add_import_flags(add("import", commands.import_head, "turn a head that others saved into one of csr_hf"))
    _add_search_flags(add("search", commands.search, "ask a finished run"))
    info = add("info", commands.info, "say what a run, model, index, cache or file of codes holds")
    info.add_argument("path", type=Path, help="folder or file")
    return parser


def _add_recipe_flags(command: argparse.ArgumentParser, with_k: bool) -> None:
    command.add_argument("recipe", nargs="?", help="YAML file; may be left out with --corpus")
    command.add_argument("--corpus", help="learn from this file, folder or Hub data set of texts")
    command.add_argument("--text-column", help="its column of texts (default: text)")
    command.add_argument("--backbone", help="Hub id or folder of the frozen model")
    command.add_argument("--head", help="start from this head: folder of a run or head, or Hub id")
    command.add_argument("--output-dir", dest="output_dir", help="where everything goes")
    command.add_argument("--limit", type=int, help="rows of the data to use")
    if with_k:
        command.add_argument("--k", type=int, help="active latents of a code")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _variant(text: str) -> dict[str, Any]:
    # Not at commas within brackets: a value may be a list or a mapping.
    return _overrides([f"--{pair.strip()}" for pair in re.split(r",(?![^\[{]*[\]}])", text)])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def _add_sweep_flags(command: argparse.ArgumentParser) -> None:
    command.set_defaults(k=None)
    command.add_argument("--hidden-dim", type=_names, default=[], help="numbers, or multiples such as 1x,2x,4x")
    command.add_argument("--k", dest="ks", type=_numbers, default=[], help="active latents to train at")
    command.add_argument("--max-steps", type=_numbers, default=[], help="lengths of the training")
    command.add_argument("--preset", dest="presets", type=_names, default=[], help="of training: csr,csrv2,csr_hf")
    command.add_argument(
        "--variant",
        dest="variants",
        type=_variant,
        action="append",
        default=[],
        help="keys of the recipe, key=value,key=value; may be repeated",
    )


def _add_evaluate_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="output folder of `csr-hf run`, or folder or Hub id of a head")
    command.add_argument("--tasks", type=_names, required=True, help="of mteb: NAME[:SUBSET[:SPLIT]],...")
    command.add_argument("--k", type=_numbers, default=[4, 8, 16, 32, 64], help="active latents (default: 4,...,64)")
    command.add_argument(
        "--baselines",
        type=_names,
        default=["truncate", "pca", "int8", "binary", "pq"],
        help="what to compare with (default: truncate,pca,int8,binary,pq)",
    )
    command.add_argument(
        "--two-stage", type=_names, default=["int8"], help="copies that rank what CSR finds (default: int8)"
    )
    command.add_argument("--submit-dir", type=Path, help="lay out results of a pushed model for the leaderboard")
    command.add_argument("--trained-on", type=_names, help="tasks whose data the head was trained on")
    command.add_argument("--output-dir", type=Path, help="where results go (default: evaluation/ in the run)")
    command.add_argument("--batch-size", type=int, default=32, help="texts in one pass (default: %(default)s)")


def _add_bench_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=["train"], help="training from cached embeddings")
    command.add_argument("--input-dim", type=int, default=384, help="width of the embeddings (default: %(default)s)")
    command.add_argument("--hidden-dim", type=int, default=1536, help="latents (default: %(default)s)")
    command.add_argument("--k", type=int, default=32, help="active latents (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=1024, help="examples in a step (default: %(default)s)")
    command.add_argument("--steps", type=int, default=20, help="in one measurement (default: %(default)s)")
    command.add_argument("--repeats", type=int, default=7, help="measurements of each (default: %(default)s)")
    command.add_argument("--output", "-o", type=Path, help="JSON file to write")


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


def _add_publishing_flags(command: argparse.ArgumentParser) -> None:
    name = command.prog.rsplit(" ", 1)[-1]
    command.add_argument("model", help="output folder of `csr-hf run`, or folder or Hub id of a head")
    if name == "push":
        command.add_argument("repo_id", help="user/name on the Hub")
    else:
        command.add_argument("output", type=Path, help="folder to write")
        command.add_argument("--repo-id", help="user/name that the card shows (default: user/name)")
    command.add_argument(
        "--layout",
        choices=["full", "head"],
        help="with the backbone, or the head alone (default: full, and head above 1 GB of backbone weights)",
    )
    command.add_argument("--base-model", help="Hub id of the backbone (default: what the head's config says)")
    command.add_argument("--license", help="of the head (default: the backbone's)")
    command.add_argument("--dataset", action="append", default=[], help="Hub id of training data; may be repeated")
    if name != "export":
        command.add_argument("--overwrite-card", action="store_true", help="replace a card that a person changed")


def _add_push_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keep-card", action="store_true", help="leave a card that a person changed as it is")
    command.add_argument("--private", action="store_true", help="make the repository private")
    command.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    command.add_argument("--revision", help="branch to commit to; made if there is none (default: main)")


def _add_import_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", help="folder or Hub id of a SparseEncoder or SparseAutoEncoder, or a .pth or .safetensors file"
    )
    command.add_argument("output", type=Path, help="folder to write")
    command.add_argument("--base-model", help="the backbone it was trained on, when it does not come with one")
    command.add_argument("--k", type=int, help="active latents (default: what the file or its name says)")
    command.add_argument("--file", help="a .pth or .safetensors file inside the folder or repository")
    command.add_argument("--revision", help="branch, tag or commit of a Hub repository")


def _add_search_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, help="output folder of `csr-hf run`")
    command.add_argument("question", nargs="+", help="one or more questions, quoted")
    command.add_argument("--top-k", type=int, default=5, help="answers to show (default: %(default)s)")
    command.add_argument("--query-k", type=int, help="latents of the query (default: the recipe's)")
    command.add_argument("--candidates", type=int, help="documents to rescore (default: the recipe's)")


def _split(command_line: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without keys of the recipe, and those with their values."""
    plain: list[str] = []
    dotted: list[str] = []
    remaining = list(command_line)
    while remaining:
        word = remaining.pop(0)
        if not _DOTTED.match(word):
            plain.append(word)
            continue
        dotted.append(word)
        if "=" not in word and remaining:
            dotted.append(remaining.pop(0))
    return plain, dotted


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """`--section.key value` and `--section.key=value`, values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if not equals:
            if not remaining:
                raise ValueError(f"{name} needs a value.")
            value = remaining.pop(0)
        try:
            found[name[2:]] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{name}: {value!r} is not a YAML value.") from error
    return found


def _console() -> Console:
    from rich.console import Console

    return Console()


def _quiet(progress: bool) -> None:
    """Only our own news: the libraries below have bars and warnings for every file they touch.

    Args:
        progress: let the Hub client show what it transfers.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not progress:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def _one_line(error: BaseException) -> str:
    return without_secrets(" ".join((str(error) or type(error).__name__).split()))


if __name__ == "__main__":
    sys.exit(main())
