"""What each command takes: the fields become its flags, their docstrings its `--help`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from csr_hf.plumbing.settings import Flag, settings

Count = Annotated[int, Field(ge=1)]


@settings
class RecipeSource:
    """Where a recipe comes from, and what is said often enough to have a short flag."""

    recipe: Annotated[str | None, Flag(nargs="?")] = None
    """YAML file; may be left out with --corpus."""
    corpus: str | None = None
    """Learn from this file, folder or Hub data set of texts or images."""
    text_column: str | None = None
    """Its column of texts (default: text)."""
    backbone: str | None = None
    """Hub id or folder of the frozen model."""
    head: str | None = None
    """Start from this head: folder of a run or head, or Hub id."""
    output_dir: str | None = None
    """Where everything goes."""
    cache_dir: str | None = None
    """Where embeddings are kept (default: embeddings, beside the output folder)."""
    limit: Count | None = None
    """Rows of the data to use."""
    skip_bad: bool = False
    """Leave out images that cannot be opened."""


@settings
class RecipeOptions(RecipeSource):
    """Flags of the commands that take a recipe."""

    k: Count | None = None
    """Active latents of a code."""


@settings
class Overwriting:
    """A flag of the commands that write a folder as a whole."""

    overwrite: bool = False
    """Start over, and replace what is there."""


@settings
class TrainOptions(RecipeOptions, Overwriting):
    """Flags of the commands that train."""


@settings
class SweepOptions(RecipeSource, Overwriting):
    """Flags of `csr-hf sweep`, beside `SweepArguments`."""


@settings
class BackendOptions:
    """Where the codes are, if not in an index of the library's own."""

    backend: str | None = None
    """URL of a search backend, such as milvus-lite:./file.db or qdrant://host (see recipes/backends.md); a key is read
    from CSR_HF_BACKEND_API_KEY."""
    collection: str | None = None
    """Name in the backend (default: like the output folder)."""


@settings
class IndexOptions(RecipeOptions, Overwriting, BackendOptions):
    """Flags of `csr-hf index`."""

    id_column: str | None = None
    """Column that names the documents (default: id, else rows are numbered)."""
    keep: list[str] = field(default_factory=list)
    """Columns to keep beside the texts, for `search --show` and `search --where`: price,lang."""


@settings
class AddOptions:
    """Flags of `csr-hf add`."""

    run: Annotated[Path, Flag(nargs="")]
    """Output folder of `csr-hf run` or `csr-hf index`."""
    source: Annotated[str, Flag(nargs="")]
    """File, folder or Hub data set of the new documents, with the columns of those that are there."""
    text_column: str | None = None
    """Its column of texts (default: as the run's)."""
    id_column: str | None = None
    """Its column of ids (default: as the run's)."""
    replace: bool = False
    """Documents whose id is in use take its place; else they are refused."""


@settings
class DeleteOptions:
    """Flags of `csr-hf delete`."""

    run: Annotated[Path, Flag(nargs="")]
    """Output folder of `csr-hf run` or `csr-hf index`."""
    ids: list[str] = field(default_factory=list)
    """Ids of the documents: a,b."""
    where: str | None = None
    """Condition on what is kept of the documents, instead of ids: 'price < 10 and lang == "en"'."""
    missing_ok: bool = False
    """Pass over ids that are not there."""
    compact: bool = False
    """Free the space of deleted documents at once."""


@settings
class EvaluateOptions:
    """Flags of `csr-hf evaluate`, beside `MTEBArguments`."""

    model: Annotated[str, Flag(nargs="")]
    """Output folder of `csr-hf run`, or folder or Hub id of a head."""
    tasks: list[str]
    """Tasks of mteb: NAME[:SUBSET[:SPLIT]],..."""


@settings
class EncodeOptions:
    """Flags of `csr-hf encode`."""

    model: Annotated[str, Flag(nargs="")]
    """Folder or Hub id of a head."""
    input: Annotated[str, Flag(nargs="")]
    """One text a line (.txt, - for stdin), or csv, jsonl, parquet with --column; each line or row has its code."""
    output: Path
    """Safetensors file to write; it keeps the ids of a column `id` (SparseCodes.load_ids)."""
    column: str = "text"
    """Column of a data file (default: text)."""
    k: Count | None = None
    """Active latents (default: the head's)."""
    refine: Literal["values", "pursuit"] | None = None
    """Better codes for documents: least-squares values, or support and values by matching pursuit."""
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    """Pack codes at their true size, with values of so many bits, by pursuit unless --refine values (default:
    float16, unpacked; PackedCodes.load)."""
    bytes: Annotated[int, Field(ge=3)] | None = None
    """Pack as many latents as fit into so many bytes a text, with values of 3 bits or --bits."""
    coder: Path | None = None
    """File of a coder, which keeps most within its bytes: read, or where there is none, fitted to what the run was
    trained on for so many --bytes, and written (load_codes, load_coder)."""
    task: Literal["query", "document"] | None = None
    """Encode as queries or as documents, for backbones that tell them apart."""
    prompt_name: str | None = None
    """One of the backbone's prompts (default: that of the task)."""
    batch_size: Count = 32
    """Texts in one pass (default: 32)."""


# Of `--more` without a number, in norms of the query.
_USUAL_WEIGHT = 0.3


def _read_weight(given: str) -> tuple[str, float]:
    latent, _, weight = given.rpartition("=")
    try:
        return latent.strip() or weight.strip(), float(weight) if latent else _USUAL_WEIGHT
    except ValueError:
        raise ValueError(f"--more {given!r} has no number behind the last '='. Write it like 'refunds=0.3'.") from None


@settings
class SearchOptions(BackendOptions):
    """Flags of `csr-hf search`."""

    run: Annotated[Path, Flag(nargs="")]
    """Output folder of `csr-hf run` or `csr-hf index`."""
    question: Annotated[list[str], Flag(nargs="*")] = field(default_factory=list)
    """Questions, quoted; without any, they are asked for."""
    top_k: Count = 5
    """Hits to show (default: 5)."""
    show: list[str] = field(default_factory=list)
    """Fields of the documents to show, by the names of their columns: question,answer (default: the text)."""
    html: Path | None = None
    """Also write the hits as a page, with thumbnails of images."""
    where: str | None = None
    """Search among the documents that fit a condition: 'price < 10 and lang in ["en", "de"]'; a column whose name is
    no Python name is written column("unit price")."""
    more: Annotated[list[tuple[str, float]], Flag(parse=_read_weight)] = field(default_factory=list)
    """A latent to ask for more of, by name or number, and how much in norms of the query: 'refunds=0.3'."""
    without: Annotated[list[str], Flag(parse=str)] = field(default_factory=list)
    """A latent to take out of the query, by name or number."""
    must: Annotated[list[str], Flag(parse=str)] = field(default_factory=list)
    """A latent that a document must have, by name or number."""
    why: bool = False
    """Also show the latents that carry the score of each hit."""
    nprobe: Count | Literal["auto", "all"] | None = None
    """Partitions to visit (default: the recipe's, else auto: what the index measured when it was built)."""
    recall: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the ten nearest documents that auto is to find (default: the recipe's, else 0.95)."""
    candidates: Count | None = None
    """Documents to rerank (default: the recipe's, else what the index measured)."""
    rerank: Literal["auto", "none", "codes", "float16"] | None = None
    """What ranks the candidates (default: the recipe's, else the most exact there is)."""
    exact: bool = False
    """Rank all documents by their sparse codes alone, as engines do."""
    query_k: Count | None = None
    """Latents of the query in a backend (default: four times those of a document)."""


Share = Annotated[float, Field(gt=0, le=1)]


@settings
class ExplainOptions:
    """Flags of `csr-hf explain`."""

    run: Annotated[Path, Flag(nargs="")]
    """Output folder of `csr-hf run` or `csr-hf train`."""
    texts: Count = 100_000
    """Texts to read at most (default: 100,000)."""
    share: list[Share] = field(default_factory=lambda: [0.1])
    """Of the texts in which a latent is active, those that count as texts with it, the strongest: names are chosen by
    the first, and measured by all (default: 0.1)."""
    other: str | None = None
    """Run or head of another seed, in which each latent is looked for."""
    show: Count = 20
    """Latents to show, the most frequent first (default: 20)."""


@settings
class DemoOptions:
    """Flags of `csr-hf demo`."""

    run: Annotated[Path, Flag(nargs="")]
    """Output folder of `csr-hf run` or `csr-hf index`."""
    title: str = ""
    """Title of the page (default: the name of the run)."""
    host: str | None = None
    """Address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0 lets others in)."""
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port (default: the first free one from 7860 on)."""
    no_browser: bool = False
    """Open no browser."""


@settings
class InfoOptions:
    """Flags of `csr-hf info`."""

    path: Annotated[Path, Flag(nargs="")]
    """Folder or file."""


def _read_days(given: str | float | None) -> float | None:
    """Read a number of days: 30d, or 30."""
    try:
        return None if given is None else float(str(given).removesuffix("d"))
    except ValueError:
        raise ValueError(f"--older-than {given!r} is no number of days. Give one such as 30d.") from None


Days = Annotated[float | None, BeforeValidator(_read_days)]


@settings
class CacheOptions:
    """Flags of `csr-hf cache`."""

    name: Annotated[list[str], Flag(nargs="*")] = field(default_factory=list)
    """Caches to list or remove, by name or path (default: all)."""
    cache_dir: Path = Path("runs/embeddings")
    """Folder of the caches (default: runs/embeddings)."""
    clear: bool = False
    """Remove them. What is needed is embedded again."""
    older_than: Days = None
    """Only those that were written this long ago or longer: 30d."""


@settings
class GlossaryOptions:
    """Flags of `csr-hf glossary`."""

    word: Annotated[list[str], Flag(nargs="*")] = field(default_factory=list)
    """Words to explain (default: all)."""


@settings
class CompletionOptions:
    """Flags of `csr-hf completion`."""

    shell: Annotated[Literal["bash", "zsh"], Flag(nargs="")]
    """bash or zsh."""
