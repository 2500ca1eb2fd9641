"""The command line: `csr-hf COMMAND ...`; what the commands do is in commands.py."""

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

from csr_hf.cli import commands, flags
from csr_hf.plumbing.redaction import without_secrets
from csr_hf.plumbing.threads import spin_briefly

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
  csr-hf bench search --head runs/quickstart --documents 100000 --output bench/search
  csr-hf bench search --head user/minilm-csr --source embeddings.npy --contestants csr_hf,hnsw,flat --task SciFact
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
    "index": """
  csr-hf index --corpus docs.parquet --text-column body --head runs/quickstart --output-dir runs/docs
  csr-hf index --corpus docs.parquet --head user/minilm-csr --index.copies '[binary]'
  csr-hf index --corpus docs.parquet --head user/minilm-csr --output-dir runs/docs --engine milvus-lite:./docs.db
  csr-hf index --corpus photos --head runs/photos --output-dir runs/more --skip-bad
""",
    "search": """
  csr-hf search runs/quickstart "how do I read a file line by line"
  csr-hf search runs/quickstart "invert a matrix" --top-k 3 --candidates 300
  csr-hf search runs/quickstart
  csr-hf search runs/docs "how are they installed" --engine milvus-lite:./docs.db
  csr-hf search runs/photos "a red bicycle" --html found.html
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
        0; 1 when a part of the work failed and the rest was done; 2 when the input was wrong (one line on stderr; the
        traceback with `--debug`).
    """
    spin_briefly()
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    # First, lest their values be taken for the recipe.
    plain, dotted = flags.split(command_line)
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
        options.overrides = flags.overrides(dotted) if options.takes_recipe else {}
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
    common = _common()
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
            flags.add_recipe_flags(command, with_k=name != "sweep")
        return command

    run = add("run", commands.run, "embed, train, evaluate and index, as a recipe says", takes_recipe=True)
    run.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    add("embed", commands.embed, "embed the texts of a recipe into the cache", takes_recipe=True)
    train = add("train", commands.train, "train a head (embeds first if need be)", takes_recipe=True)
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    flags.add_sweep_flags(
        add("sweep", commands.sweep, "train and measure a head for every combination", takes_recipe=True)
    )
    flags.add_evaluate_flags(add("evaluate", commands.evaluate, "measure a head and its rivals on MTEB"))
    flags.add_bench_flags(
        add("bench", commands.bench, "measure speed beside the rivals, in one run"), _common(argparse.SUPPRESS)
    )
    flags.add_encode_flags(add("encode", commands.encode, "encode texts into a file of sparse codes"))
    flags.add_publishing_flags(add("export", commands.export, "write a head as a folder that every library loads"))
    push = add("push", commands.push, "publish a head on the Hub, as one commit")
    flags.add_publishing_flags(push)
    flags.add_push_flags(push)
    flags.add_publishing_flags(add("card", commands.card, "write the model card of a run, and the files it quotes"))
    flags.add_import_flags(add("import", commands.import_head, "turn a head that others saved into one of csr_hf"))
    index = add("index", commands.index, "index a corpus with a head that was trained before", takes_recipe=True)
    flags.add_engine_flags(index)
    search = add("search", commands.search, "ask a finished run")
    flags.add_search_flags(search)
    flags.add_engine_flags(search)
    info = add("info", commands.info, "say what a run, model, index, cache or file of codes holds")
    info.add_argument("path", type=Path, help="folder or file")
    return parser


def _common(default: Any = None) -> _Parser:
    """Flags of every command.

    Args:
        default: of all of them; `argparse.SUPPRESS` leaves those that are not given as an outer parser has read them.
    """
    common = _Parser(add_help=False)
    given = {} if default is None else {"default": default}
    common.add_argument("--debug", action="store_true", help="show tracebacks, warnings and the log", **given)
    common.add_argument("--no-progress", action="store_true", help="no progress bars", **given)
    common.add_argument("--device", help="cpu, cuda, ...; default the best at hand", **given)
    return common


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
