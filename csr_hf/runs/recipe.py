"""One YAML file = one reproducible run: the settings behind a recipe, and its strict reading and writing."""

from __future__ import annotations

import dataclasses
import logging
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from csr_hf.data.arguments import DataArguments, SourceArguments
from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.evaluation.names import DEFAULT_BASELINES, EQUAL_BYTES_BASELINES, Baseline
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import machine, versions
from csr_hf.plumbing.settings import from_mapping, known_keys, settings, suggest
from csr_hf.runs.folder import RunFolder
from csr_hf.search.params import SearchParams
from csr_hf.training.arguments import PRESETS, CSRTrainingArguments

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
"""What embeds texts where a recipe names no backbone."""

FRESH_HEADS = ("kaiming", "data")
"""Values of `model.init` that name no head."""

# Sections that a finished run adds: a resolved recipe can be run again as it is.
_RECORDED = ("versions", "results")


@settings
class BackboneArguments(BackboneSettings):
    """The frozen model that makes the embeddings, and how; heads record the settings."""

    name_or_path: str | None = None
    """Hub id or folder; default sentence-transformers/all-MiniLM-L6-v2, and none for embeddings in the data."""
    revision: str | None = None
    """Branch, tag or commit."""
    device: str | None = None
    """cpu, cuda, ...; default the best there is."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts in one pass."""


@settings
class ModelArguments:
    """Sizes of the head; see `CSRConfig`."""

    hidden_dim: int | str = "4x"
    """Latents: a number, or a multiple of the embeddings' width such as "4x"."""
    k: int = 32
    """Active latents of a code."""
    k_aux: int | None = None
    """Dead latents the auxiliary term revives; default min(512, hidden_dim // 2)."""
    dead_threshold: int = 50_000
    """Training examples without firing after which a latent is dead."""
    tied_decoder: bool = True
    """Decode with the transposed encoder."""
    modality_bias: bool = True
    """Subtract from images and texts each their own mean; False: one bias for both, as published."""
    whitening: Annotated[float, Field(ge=0, le=1)] | None = None
    """Against dead latents: train on embeddings without their mean whose directions vary more alike, from 0 (no more)
    to 1 (entirely); undone in the head, whose decoder is then no transposed encoder. Default: not done."""
    init: str = "kaiming"
    """Where training starts: "kaiming" (random), "data" (dictionary vectors are training embeddings), or a head that
    was trained before: the folder of a run, of a head, or a Hub id. Its number of latents stays as it is."""

    def hidden_dim_for(self, input_dim: int) -> int:
        """Compute the number of latents for embeddings `input_dim` wide."""
        match = re.fullmatch(r"([0-9.]+)x|([0-9]+)", str(self.hidden_dim))
        if match is None:
            raise ValueError(f"`model.hidden_dim` ({self.hidden_dim!r}) must be a number, or a multiple such as 4x.")
        return int(match[2]) if match[2] else round(float(match[1]) * input_dim)


@settings
class EvaluationArguments:
    """What is measured on the held-out rows."""

    bytes: list[Annotated[int, Field(ge=8)]] = field(default_factory=list)
    """Bytes of a document that every method has to keep within, each in its largest setting; none: those that `ks`
    take."""
    ks: list[Annotated[int, Field(ge=1)]] | None = None
    """Active latents to report, for CSR as sparse codes; default 8, 16, 32, 64, with `bytes` none."""
    baselines: list[Baseline] | None = None
    """What CSR is compared with: truncate, adapter, pca, int8, binary, rotated, pq, opq, rabitq. Default truncate,
    pca, int8 and binary; with `bytes` truncate, adapter, pq, binary and rotated. The last three of the list need
    faiss, and opq takes many minutes to fit."""

    @property
    def measured_baselines(self) -> list[Baseline]:
        """What CSR is compared with."""
        if self.baselines is not None:
            return self.baselines
        return list(EQUAL_BYTES_BASELINES if self.bytes else DEFAULT_BASELINES)

    @property
    def measured_ks(self) -> list[int]:
        """Active latents that are reported."""
        return self.ks if self.ks is not None else [] if self.bytes else [8, 16, 32, 64]


@settings
class IndexArguments:
    """How the corpus is indexed."""

    row_bytes: Annotated[int, Field(ge=8)] = 24
    """Bytes of a document's packed code, which gets as many latents as fit."""
    residual_bytes: Annotated[int, Field(ge=0)] | None = None
    """Bytes, at most, for what the code leaves of the embedding (default: one for two dimensions). 0 keeps nothing."""
    copies: list[Literal["float16"]] = field(default_factory=list)
    """Copies of the embeddings to keep beside the codes: float16 reranks exactly, for two bytes a dimension."""
    k: Annotated[int, Field(ge=1)] | None = None
    """Latents of a document in a search backend; default the head's k."""
    refine: bool | Literal["pursuit"] = "pursuit"
    """How documents are encoded for a search backend, see `CSRModel.encode`."""
    questions: list[str] = field(default_factory=list)
    """Sample questions to answer at the end of the run."""


@settings
class SearchArguments:
    """How the index is searched where nobody says otherwise, with the defaults of `SearchParams`."""

    nprobe: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Partitions to visit: a number, null for all, or "auto": as many as find `recall`."""
    recall: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the ten nearest documents that nprobe "auto" is to find."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """Documents to rerank; default what the index measured."""
    rerank: Literal["auto", "none", "codes", "float16"] = "auto"
    """What ranks the candidates: codes, float16 copies where the index keeps them, or none, the scan alone; auto: the
    most exact there is."""
    exact: bool = False
    """Rank all documents by their sparse codes alone, through inverted lists, as engines do."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Default as many as there are cores."""

    @property
    def params(self) -> SearchParams:
        """The same as an index takes it."""
        return SearchParams(**dataclasses.asdict(self))


@settings
class RunRecipe:
    """Everything that determines a run.

    Raises:
        ValueError: from any section, naming the key, its value and the way out.
    """

    output_dir: str = "runs/csr"
    """Where model, index, results and the resolved recipe go."""
    cache_dir: str | None = None
    """Where embeddings are kept; default `<output_dir>/../embeddings`, shared by neighboring runs."""
    backbone: BackboneArguments = field(default_factory=BackboneArguments)
    """The frozen model."""
    data: DataArguments = field(default_factory=DataArguments)
    """What the run learns from."""
    model: ModelArguments = field(default_factory=ModelArguments)
    """Sizes of the head."""
    training: CSRTrainingArguments = field(default_factory=lambda: CSRTrainingArguments.from_preset("csr_hf"))
    """How the head is trained; the key `preset` (csr, csrv2, csr_hf) sets what is not given."""
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)
    """What is measured."""
    index: IndexArguments = field(default_factory=IndexArguments)
    """How the corpus is indexed."""
    search: SearchArguments = field(default_factory=SearchArguments)
    """How the index is searched."""

    def __post_init__(self) -> None:
        if self.training.output_dir is not None:
            raise ValueError(
                f"`training.output_dir` ({self.training.output_dir!r}): a run keeps all it writes in one folder. "
                "Remove this key and set `output_dir`."
            )
        if self.training.eval_steps and not self.data.held_out:
            raise ValueError(
                f"`training.eval_steps` ({self.training.eval_steps}) needs held-out rows. Raise `data.held_out`, or "
                "set it to 0."
            )

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> RunRecipe:
        """Read a recipe.

        Args:
            path: YAML file.
            overrides: dotted key ("training.max_steps") -> value; they win over the file. Where they name other data
                than the file, what the file says of its own data does not hold for it: that is left out, and logged.

        Raises:
            ValueError: for a missing file, broken YAML, or an unknown key (the nearest known one is named).
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise ValueError(f"recipe {path} does not exist. Recipes that come with csr_hf are in recipes/.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict(_leave_out_other_data(content, overrides or {}, path), overrides)

    @classmethod
    def from_dict(cls, content: dict[str, Any], overrides: dict[str, Any] | None = None) -> RunRecipe:
        """Build a recipe from nested dictionaries; what a resolved recipe records of its run is ignored.

        Raises:
            ValueError: for an unknown key, a wrong value, or a preset among the overrides that would change nothing.
        """
        if not isinstance(content, dict):
            raise ValueError(
                f"a recipe is a mapping of sections, not {type(content).__name__}. See recipes/quickstart.yaml."
            )
        content = {key: value for key, value in content.items() if key not in _RECORDED}
        if "training.preset" in (overrides or {}):
            _check_preset_counts(content.get("training"))
        for dotted, value in (overrides or {}).items():
            _set(content, dotted, value)
        names = [known.name for known in dataclasses.fields(cls)]
        content = {key: {} if value is None and key in _SECTIONS else value for key, value in content.items()}
        for key in content:
            if key not in names:
                raise ValueError(f"`{key}` is not a key of a recipe. {suggest(str(key), names)}")
        backbone, training = content.get("backbone"), content.get("training", {})
        if isinstance(backbone, dict) and "trust_remote_code" in backbone:
            raise ValueError(
                "`backbone.trust_remote_code` is for the caller alone to say, not for a recipe. Remove it; give "
                "--trust-remote-code, or `trust_remote_code=True` in Python."
            )
        if isinstance(training, dict):
            content["training"] = _resolve_preset(training)
        return from_mapping(cls, content)

    @staticmethod
    def recorded(path: str | Path, section: str) -> dict[str, Any]:
        """Read a section that a finished run added to its resolved recipe: `results` or `versions`."""
        import yaml

        return (yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}).get(section, {})

    @property
    def embeddings_dir(self) -> Path:
        """Folder of the embedding caches."""
        return Path(self.cache_dir) if self.cache_dir else RunFolder.of(self.output_dir).embeddings

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the resolved recipe, the versions it ran with, and `extra` sections."""
        import yaml

        resolved = {**self.to_dict(), "versions": {**versions(), "machine": machine()}, **(extra or {})}
        with write_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")


# What is said of one data set, and of no other.
_OF_SOURCE = {field.name for field in dataclasses.fields(SourceArguments)} | {"sources", "max_characters"}
_SECTIONS = ("backbone", "data", "model", "training", "evaluation", "index", "search")


def _leave_out_other_data(content: Any, overrides: dict[str, Any], path: Path) -> Any:
    """Leave out what a recipe says of data that the overrides replace; say so in the log.

    Args:
        content: of the file.
        overrides: dotted key -> value.
        path: of the file, for the log.
    """
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        return content
    source, sources = overrides.get("data.source"), overrides.get("data.sources")
    own = [name for name in ("source", "sources") if data.get(name)]
    if not own or not (source or sources) or (source or sources) in (data.get("source"), data.get("sources")):
        return content
    kept = {key: value for key, value in data.items() if key not in _OF_SOURCE}
    defaults = DataArguments()
    changed = [key for key in data if key in _OF_SOURCE and data[key] != getattr(defaults, key)]
    dropped = [f"data.{key}" for key in changed if key not in own and f"data.{key}" not in overrides]
    index, backbone = content.get("index"), content.get("backbone")
    content = {**content, "data": kept}
    if isinstance(index, dict) and index.get("questions") and "index.questions" not in overrides:
        content["index"] = {key: value for key, value in index.items() if key != "questions"}
        dropped.append("index.questions")
    is_named = isinstance(backbone, dict) and backbone.get("name_or_path") and "backbone.name_or_path" not in overrides
    if is_named and _holds_embeddings(overrides):
        content["backbone"] = {
            key: value for key, value in backbone.items() if key not in ("name_or_path", "revision")
        }
        dropped.append("backbone.name_or_path")
    if dropped:
        logger.info("recipe     %s: left out what it says of %s: %s", path, data[own[0]], ", ".join(dropped))
    return content


def _holds_embeddings(overrides: dict[str, Any]) -> bool:
    """Tell whether the data that overrides name are embeddings, whose backbone no recipe for other data knows."""
    from csr_hf.data.array_files import holds_arrays

    columns = overrides.get("data.columns")
    roles = columns if isinstance(columns, dict) else [key.removeprefix("data.columns.") for key in overrides]
    return "embedding" in roles or holds_arrays(str(overrides.get("data.source")))


def _check_preset_counts(training: Any) -> None:
    """Refuse a preset over a file that sets all that presets set, as every resolved recipe does."""
    if isinstance(training, dict) and training.keys() >= {key for preset in PRESETS.values() for key in preset}:
        raise ValueError(
            "`training.preset` would change nothing: the recipe's `training` already sets every key of a preset. Take "
            "the recipe that the run was started with, or remove from `training` what the preset shall set."
        )


def _resolve_preset(training: dict[str, Any]) -> dict[str, Any]:
    """Replace the key `preset` by what it sets and the section does not."""
    known = ["preset", *known_keys(CSRTrainingArguments)]
    for key in training:
        if key not in known:
            raise ValueError(f"`training.{key}` is not a setting. {suggest(str(key), known, prefix='training')}")
    preset = CSRTrainingArguments.from_preset(training.get("preset", "csr_hf")).to_dict()
    return preset | {key: value for key, value in training.items() if key != "preset"}


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value in nested dictionaries by its dotted key; sections that are missing are made.

    Dictionaries on the way are replaced by copies: they are the caller's.
    """
    # Of a mapping inside a section, the key may have dots of its own: training.reconstruction.0.25.
    *section, key = dotted.split(".", 2)
    target = content
    for name in section:
        inner = target.get(name)
        if not isinstance(inner, dict | None):
            raise ValueError(f"`{dotted}` is unknown: `{name}` is not a section.")
        target[name] = dict(inner or {})
        target = target[name]
    target[key] = value
