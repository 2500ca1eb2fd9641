"""Flags of the commands, and the recipe that they and a file make together."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csr_hf.runs.recipe import RunRecipe

_DOTTED = re.compile(r"--\w+(\.\w+)+(=|$)")


def add_recipe_flags(command: argparse.ArgumentParser, with_k: bool) -> None:
    """Of the commands that take a recipe."""
    command.add_argument("recipe", nargs="?", help="YAML file; may be left out with --corpus")
    command.add_argument("--corpus", help="learn from this file, folder or Hub data set of texts or images")
    command.add_argument("--text-column", help="its column of texts (default: text)")
    command.add_argument("--backbone", help="Hub id or folder of the frozen model")
    command.add_argument("--head", help="start from this head: folder of a run or head, or Hub id")
    command.add_argument("--output-dir", dest="output_dir", help="where everything goes")
    command.add_argument("--limit", type=int, help="rows of the data to use")
    command.add_argument(
        "--skip-bad", action="store_true", default=None, help="leave out images that cannot be opened"
    )
    if with_k:
        command.add_argument("--k", type=int, help="active latents of a code")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _variant(text: str) -> dict[str, Any]:
    # Not at commas within brackets: a value may be a list or a mapping.
    return overrides([f"--{pair.strip()}" for pair in re.split(r",(?![^\[{]*[\]}])", text)])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def add_sweep_flags(command: argparse.ArgumentParser) -> None:
    """What a sweep varies."""
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


def add_evaluate_flags(command: argparse.ArgumentParser) -> None:
    """What is measured, and beside what."""
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
    command.add_argument("--query-k-factor", type=int, help="queries keep this many times k (default: the run's)")
    command.add_argument("--candidates", type=int, help="of the first stage, for the second (default: the run's)")
    command.add_argument("--submit-dir", type=Path, help="lay out results of a pushed model for the leaderboard")
    command.add_argument("--trained-on", type=_names, help="tasks whose data the head was trained on")
    command.add_argument("--output-dir", type=Path, help="where results go (default: evaluation/ in the run)")
    command.add_argument("--batch-size", type=int, default=32, help="texts in one pass (default: %(default)s)")


def _values(text: str) -> tuple[str, list[Any]]:
    import yaml

    name, equals, values = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value,value")
    return name.strip(), [yaml.safe_load(value) for value in _names(values)]


def add_bench_flags(command: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Contests, and their sizes.

    Args:
        command: `csr-hf bench`.
        common: flags that go before or after the name of the contest.
    """
    contests = command.add_subparsers(dest="what", required=True, metavar="CONTEST", parser_class=type(command))
    train = contests.add_parser("train", help="training from cached embeddings", parents=[common], allow_abbrev=False)
    train.add_argument("--input-dim", type=int, default=384, help="width of the embeddings (default: %(default)s)")
    train.add_argument("--hidden-dim", type=int, default=1536, help="latents (default: %(default)s)")
    train.add_argument("--k", type=int, default=32, help="active latents (default: %(default)s)")
    train.add_argument("--batch-size", type=int, default=1024, help="examples in a step (default: %(default)s)")
    train.add_argument("--steps", type=int, default=20, help="in one measurement (default: %(default)s)")
    train.add_argument("--repeats", type=int, default=7, help="measurements of each (default: %(default)s)")
    train.add_argument("--output", "-o", type=Path, help="JSON file to write")
    search = contests.add_parser("search", help="the index and its rivals", parents=[common], allow_abbrev=False)
    _add_search_contest_flags(search)


def _add_search_contest_flags(search: argparse.ArgumentParser) -> None:
    search.add_argument("--head", required=True, help="folder of a run or head, or Hub id")
    search.add_argument(
        "--other-head", action="append", default=[], help="have csr_hf search its codes too; may be repeated"
    )
    search.add_argument("--documents", type=int, default=1_000_000, help="to search among (default: %(default)s)")
    search.add_argument("--queries", type=int, default=1_000, help="in a batch (default: %(default)s)")
    search.add_argument(
        "--source",
        default="python-docs",
        help="npy files or embedding caches, or texts as recipes name them; several by comma (default: %(default)s)",
    )
    search.add_argument("--limit", type=int, help="rows of each source of texts (default: all)")
    search.add_argument("--jitter", type=float, default=0.5, help="length of the noise added (default: %(default)s)")
    search.add_argument("--k", type=int, help="active latents of a document (default: the head's)")
    search.add_argument(
        "--query-k-factor", type=_numbers, default=[1, 2, 4], help="queries keep so many times k (default: 1,2,4)"
    )
    search.add_argument(
        "--candidates", type=_numbers, default=[100, 300, 1000], help="of first stages (default: 100,300,1000)"
    )
    search.add_argument(
        "--sweep",
        type=_values,
        action="append",
        default=[],
        help="an option of InvertedIndex.search and values to try, name=value,value; may be repeated",
    )
    search.add_argument("--contestants", type=_names, default=["all"], help="by comma (default: all)")
    search.add_argument("--task", help="retrieval task of mteb to measure nDCG@10 on, for example SciFact")
    search.add_argument("--repeats", type=int, default=3, help="turns that count (default: %(default)s)")
    search.add_argument("--single", type=int, default=200, help="queries asked one by one (default: %(default)s)")
    search.add_argument("--threads", type=int, help="of every contestant (default: as many as cores)")
    search.add_argument("--budget", type=float, default=600, help="seconds a build may take (default: %(default)s)")
    search.add_argument("--seed", type=int, default=0, help="of the data (default: %(default)s)")
    search.add_argument(
        "--output", "-o", type=Path, default=Path("bench/search"), help="folder to write (default: %(default)s)"
    )


def add_encode_flags(command: argparse.ArgumentParser) -> None:
    """What is encoded, and how."""
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


def add_publishing_flags(command: argparse.ArgumentParser) -> None:
    """What goes into an exported folder."""
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


def add_push_flags(command: argparse.ArgumentParser) -> None:
    """Where and how a folder is published."""
    command.add_argument("--keep-card", action="store_true", help="leave a card that a person changed as it is")
    command.add_argument("--private", action="store_true", help="make the repository private")
    command.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    command.add_argument("--revision", help="branch to commit to; made if there is none (default: main)")


def add_import_flags(command: argparse.ArgumentParser) -> None:
    """Where a head of others is, and what it does not say itself."""
    command.add_argument(
        "source", help="folder or Hub id of a SparseEncoder or SparseAutoEncoder, or a .pth or .safetensors file"
    )
    command.add_argument("output", type=Path, help="folder to write")
    command.add_argument("--base-model", help="the backbone it was trained on, when it does not come with one")
    command.add_argument("--k", type=int, help="active latents (default: what the file or its name says)")
    command.add_argument("--file", help="a .pth or .safetensors file inside the folder or repository")
    command.add_argument("--revision", help="branch, tag or commit of a Hub repository")


def add_search_flags(command: argparse.ArgumentParser) -> None:
    """What is asked."""
    command.add_argument("run", type=Path, help="output folder of `csr-hf run` or `csr-hf index`")
    command.add_argument("question", nargs="*", help="questions, quoted; without any, they are asked for")
    command.add_argument("--top-k", type=int, default=5, help="answers to show (default: %(default)s)")
    command.add_argument("--html", type=Path, help="also write the answers as a page, with thumbnails of images")
    command.add_argument("--query-k", type=int, help="latents of the query (default: the recipe's)")
    command.add_argument("--candidates", type=int, help="documents to rescore (default: the recipe's)")


def add_engine_flags(command: argparse.ArgumentParser) -> None:
    """Where the codes are, if not in an index of the library's own."""
    command.add_argument(
        "--engine",
        metavar="URL",
        help="a search engine, such as milvus-lite:./file.db or qdrant://host (see recipes/engines.md); a key is read "
        "from CSR_HF_ENGINE_API_KEY",
    )
    command.add_argument("--collection", help="in the engine (default: called like the output folder)")


def collection_of(folder: str | Path) -> str:
    """A collection's name for an output folder: its last part, in characters that every engine takes."""
    name = re.sub(r"[^a-z0-9_]", "_", Path(folder).resolve().name.lower())
    return (name if name[:1].isalpha() else f"c_{name}")[:63]


def split(command_line: Sequence[str]) -> tuple[list[str], list[str]]:
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


def overrides(words: Sequence[str]) -> dict[str, Any]:
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


def recipe_of(options: argparse.Namespace) -> RunRecipe:
    """What a recipe file, `--corpus`, `--head` and the keys given as flags say together; flags win."""
    from csr_hf.runs.recipe import RunRecipe

    flags = {
        "output_dir": options.output_dir,
        "data.limit": options.limit,
        "data.skip_bad": options.skip_bad,
        "model.k": options.k,
        "backbone.device": options.device,
        "backbone.name_or_path": options.backbone,
        **_start(options),
        **_corpus(options),
    }
    given = {**{key: value for key, value in flags.items() if value is not None}, **options.overrides}
    if options.recipe is None:
        return RunRecipe.from_dict({}, given)
    return RunRecipe.load(options.recipe, given)


def _corpus(options: argparse.Namespace) -> dict[str, Any]:
    """What `--corpus` says, as keys of a recipe."""
    if options.corpus is None:
        if options.recipe is None:
            raise ValueError("give a recipe, or the texts to learn from: --corpus docs.parquet --text-column body.")
        if options.text_column:
            raise ValueError("--text-column goes with --corpus. In a recipe it is `data.columns`.")
        return {}
    found = {"data.source": options.corpus, "data.sources": []}
    if options.text_column:
        found["data.columns"] = {"text": options.text_column}
    if options.recipe is None and options.output_dir is None:
        found["output_dir"] = str(Path("runs") / Path(options.corpus).stem)
    return found


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """What `--head` says: its backbone and k too, unless they are given."""
    if options.head is None:
        return {}
    from csr_hf.heads import load_head
    from csr_hf.repository import open_repository

    config = load_head(open_repository(options.head)).config
    found: dict[str, Any] = {"model.init": options.head}
    if options.backbone is None:
        if config.base_model_name_or_path is None:
            raise ValueError(f"{options.head} names no backbone. Say which one with --backbone.")
        found["backbone.name_or_path"] = config.base_model_name_or_path
        found["backbone.revision"] = config.base_model_revision
    if options.k is None:
        found["model.k"] = config.k
    return found
