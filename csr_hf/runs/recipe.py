"""One YAML file = one reproducible run: the dataclasses behind a recipe, and its strict reading and writing."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from csr_hf.data.arguments import DataArguments, SourceArguments
from csr_hf.plumbing.atomic import written_whole
from csr_hf.training.arguments import CSRTrainingArguments

_VERSIONED = ("csr_hf", "torch", "transformers", "sentence-transformers", "datasets", "accelerate", "numpy", "numba")

# Sections that a finished run adds: a resolved recipe can be run again as it is.
_RECORDED = ("versions", "results")


@dataclass
class BackboneArguments:
    """Which frozen model makes the embeddings."""

    name_or_path: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or folder."""
    revision: str | None = None
    """Branch, tag or commit."""
    device: str | None = None
    """Default: the best at hand."""
    batch_size: int = 32
    """Texts in one pass."""


@dataclass
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
    """Center images and texts each by its own mean, see `CSRModel.subtract_modality_mean`; False: one bias
    for both, as published."""
    init: str = "kaiming"
    """Where training starts: "kaiming" (random), "data" (atoms are training embeddings), or a head that was trained
    before: the folder of a run, of a head, or a Hub id. Its number of latents stays as it is."""

    def hidden_dim_for(self, input_dim: int) -> int:
        """The number of latents for embeddings `input_dim` wide."""
        match = re.fullmatch(r"([0-9.]+)x|([0-9]+)", str(self.hidden_dim))
        if match is None:
            raise ValueError(f"`model.hidden_dim` ({self.hidden_dim!r}) must be a number, or a multiple such as 4x.")
        return int(match[2]) if match[2] else round(float(match[1]) * input_dim)


@dataclass
class EvaluationArguments:
    """What is measured on the held-out pairs."""

    ks: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    """Active latents to report."""
    query_k_factor: int = 2
    """A query keeps this many times the documents' latents, at no cost in storage."""
    candidates: int = 100
    """Documents the first stage hands to the second."""
    baselines: list[str] = field(default_factory=lambda: ["truncate", "pca", "int8", "binary"])
    """What CSR is compared with: truncate, pca, int8, binary, pq."""
    two_stage: list[Literal["binary", "int8", "float16"]] = field(default_factory=lambda: ["int8"])
    """Copies of the embeddings that rank what CSR finds: binary, int8, float16."""


@dataclass
class IndexArguments:
    """How the corpus is indexed."""

    k: int | None = None
    """Latents of a document; default the head's k."""
    refine: bool | Literal["pursuit"] = "pursuit"
    """How documents are encoded, see `CSRModel.encode`: "pursuit" is best with the second stage."""
    copies: list[Literal["binary", "int8", "float16"]] = field(default_factory=lambda: ["binary", "int8"])
    """Copies of the embeddings to keep: float16, int8 or binary for the second stage, binary beside another to find
    what it ranks; none for the codes alone."""
    questions: list[str] = field(default_factory=list)
    """Sample questions to answer at the end of the run."""


@dataclass
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
    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    training: CSRTrainingArguments = field(default_factory=lambda: CSRTrainingArguments.from_preset("csr_hf"))
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)
    index: IndexArguments = field(default_factory=IndexArguments)

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> RunRecipe:
        """Read a recipe.

        Args:
            path: YAML file.
            overrides: dotted key ("training.max_steps") -> value; they win over the file.

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
        return cls.from_dict(content, overrides)

    @classmethod
    def from_dict(cls, content: dict[str, Any], overrides: dict[str, Any] | None = None) -> RunRecipe:
        """Build a recipe from nested dictionaries; what a resolved recipe records of its run is ignored."""
        if not isinstance(content, dict):
            raise ValueError(
                f"a recipe is a mapping of sections, not {type(content).__name__}. See recipes/quickstart.yaml."
            )
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
        for recorded in _RECORDED:
            content.pop(recorded, None)
        for dotted, value in (overrides or {}).items():
            *section, key = dotted.split(".")
            target = content
            for name in section:
                target = target.setdefault(name, {})
                if not isinstance(target, dict):
                    raise ValueError(f"`{dotted}` is unknown: `{name}` is not a section.")
            target[key] = value
        content = {key: {} if value is None and key in _SECTIONS else value for key, value in content.items()}
        _check_keys(cls, content)
        training = content.get("training", {})
        preset = CSRTrainingArguments.from_preset(training.get("preset", "csr_hf")).to_dict()
        content["training"] = preset | {key: value for key, value in training.items() if key != "preset"}
        return _validated(content)

    @staticmethod
    def recorded(path: str | Path, section: str) -> dict[str, Any]:
        """A section that a finished run added to its resolved recipe: `results` or `versions`."""
        import yaml

        return (yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}).get(section, {})

    @property
    def embeddings_dir(self) -> Path:
        """Folder of the embedding caches."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.output_dir).parent / "embeddings"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the resolved recipe, the versions it ran with, and `extra` sections."""
        import yaml

        resolved = {**self.to_dict(), "versions": versions(), **(extra or {})}
        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what a result depends on, and the machine's description."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found


def _check_keys(kind: type, content: dict[str, Any], prefix: str = "") -> None:
    """Refuse unknown keys, naming the nearest known one; descends into sections."""
    sections = {entry.name: entry.default_factory for entry in dataclasses.fields(kind)}
    known = [*sections, "preset"] if kind is CSRTrainingArguments else list(sections)
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"Did you mean `{prefix}{near[0]}`?" if near else f"Known keys: {', '.join(known)}."
            raise ValueError(f"`{prefix}{key}` is not a key of a recipe. {hint}")
        if kind is DataArguments and key == "sources" and isinstance(value, list):
            for number, source in enumerate(value):
                if not isinstance(source, dict):
                    raise ValueError(f"`{prefix}sources` lists mappings such as {{source: FILE}}, not {source!r}.")
                _check_keys(SourceArguments, source, f"{prefix}sources.{number}.")
        section = _SECTIONS.get(key) if kind is RunRecipe else None
        if section is not None and not isinstance(value, dict):
            raise ValueError(f"`{key}` is a section with keys, not {value!r}.")
        if section is not None:
            _check_keys(section, value, f"{key}.")


def _validated(content: dict[str, Any]) -> RunRecipe:
    """Let pydantic check and convert every value (YAML reads 1e-3 as text, for one)."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(RunRecipe).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from None
        raise ValueError(f"`{key}` ({first['input']!r}): {first['msg']}.") from None


_SECTIONS: dict[str, type] = {
    "backbone": BackboneArguments,
    "data": DataArguments,
    "model": ModelArguments,
    "training": CSRTrainingArguments,
    "evaluation": EvaluationArguments,
    "index": IndexArguments,
}
