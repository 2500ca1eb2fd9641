"""One YAML file = one reproducible run: the dataclasses behind a recipe, and its strict reading and writing."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_hf.training.arguments import PRESETS, TrainingArguments
from csr_hf.training.data import DataArguments

_VERSIONED = ("csr_hf", "torch", "transformers", "sentence-transformers", "datasets", "accelerate", "numpy", "numba")


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

    def hidden_dim_for(self, input_dim: int) -> int:
        """The number of latents for embeddings `input_dim` wide."""
        if isinstance(self.hidden_dim, int):
            return self.hidden_dim
        try:
            return round(float(self.hidden_dim.removesuffix("x")) * input_dim) if self.hidden_dim.endswith("x") else int(
                self.hidden_dim)
        except ValueError:
            raise ValueError(f"`model.hidden_dim` ({self.hidden_dim!r}) must be a number, or a multiple such as 4x.") from None


@dataclass
class EvaluationArguments:
    """What is measured on the held-out pairs."""

    ks: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    """Active latents to report."""
    query_k_factor: int = 2
    """A self-rescored query keeps this many times the documents' latents, at no cost in storage."""
    candidates: int = 100
    """Documents the first stage hands to the second."""
    baselines: bool = True
    """Also truncation, PCA, int8 and binary."""


@dataclass
class IndexArguments:
    """How the corpus is indexed."""

    k: int | None = None
    """Latents of a document; default the head's k."""
    refine: bool = True
    """Least-squares values for the documents."""
    questions: list[str] = field(default_factory=list)
    """Sample questions to answer at the end of the run."""


@dataclass
class Recipe:
    """Everything that determines a run.

    Raises:
        ValueError: from any section, naming the key, its value and the way out.
    """

    output_dir: str = "runs/csr"
    """Where model, index, results and the resolved recipe go."""
    cache_dir: str | None = None
    """Where embeddings are kept; default `<output_dir>/../embeddings`, shared by neighbouring runs."""
    backbone: BackboneArguments = field(default_factory=BackboneArguments)
    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    training: TrainingArguments = field(default_factory=lambda: TrainingArguments.from_preset("csr_hf"))
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)
    index: IndexArguments = field(default_factory=IndexArguments)

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
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
    def from_dict(cls, content: dict[str, Any], overrides: dict[str, Any] | None = None) -> Recipe:
        """Build a recipe from nested dictionaries; `versions`, which a resolved recipe records, is ignored."""
        if not isinstance(content, dict):
            raise ValueError(f"a recipe is a mapping of sections, not {type(content).__name__}. See recipes/quickstart.yaml.")
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
        content.pop("versions", None)
        for dotted, value in (overrides or {}).items():
            *section, key = dotted.split(".")
            target = content
            for name in section:
                target = target.setdefault(name, {})
                if not isinstance(target, dict):
                    raise ValueError(f"`{dotted}` is unknown: `{name}` is not a section.")
            target[key] = value
        return _build(cls, content, "")

    @property
    def embeddings_dir(self) -> Path:
        """Folder of the embedding caches."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.output_dir).parent / "embeddings"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write the resolved recipe with the versions it ran with, whole or not at all."""
        import yaml

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**self.to_dict(), "versions": {**versions(), **(extra or {})}}, sort_keys=False)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what a result depends on, and the machine's description."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["platform"] = f"{sys.platform} {platform.machine()}, {os.cpu_count()} cores"
    return found


def _build(kind: type, content: Any, prefix: str) -> Any:  # noqa: ANN401 - a dataclass of any section
    if not isinstance(content, dict):
        raise ValueError(f"`{prefix.rstrip('.')}` must be a section with keys, not {content!r}.")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    allowed = [*fields, "preset"] if kind is TrainingArguments else list(fields)
    for key in content:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
            hint = f"Did you mean `{prefix}{near[0]}`?" if near else f"Known keys: {', '.join(allowed)}."
            raise ValueError(f"`{prefix}{key}` is not a key of a recipe. {hint}")
    values = {}
    for key, value in content.items():
        factory = fields[key].default_factory if key in fields else dataclasses.MISSING
        default = factory() if factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(default):
            values[key] = _build(type(default), value or {}, f"{prefix}{key}.")
        else:
            values[key] = _check_type(f"{prefix}{key}", value, fields[key].type) if key in fields else value
    if kind is TrainingArguments:
        return TrainingArguments.from_preset(values.pop("preset", "csr_hf" if "csr_hf" in PRESETS else ""), **values)
    return kind(**values)


def _check_type(name: str, value: Any, annotation: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Catch the slips YAML makes easy: a quoted number, a float for a count, a word for a switch."""
    kinds = {part.strip().split("[")[0] for part in str(annotation).split("|")}
    if value is None:
        if "None" in kinds:
            return None
        raise ValueError(f"`{name}` must be {annotation}, not empty.")
    if "float" in kinds and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    names = {"int": int, "str": str, "bool": bool, "list": list, "dict": dict, "Literal": str, "float": str}
    accepted = tuple(names[kind] for kind in kinds if kind in names and kind != "float")
    if isinstance(value, bool) and "bool" not in kinds or (accepted and not isinstance(value, accepted)):
        raise ValueError(f"`{name}` ({value!r}) must be {annotation}.")
    if accepted == () and "float" in kinds:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` ({value!r}) must be {annotation}.") from None
    return value
