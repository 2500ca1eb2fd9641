"""The model card: made from the files of a run, never by hand."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from csr_hf.data.readers import ARRAY_FORMATS, FILE_FORMATS
from csr_hf.evaluation.results import Results, Row
from csr_hf.plumbing.atomic import written_whole
from csr_hf.plumbing.redaction import shareable
from csr_hf.publishing.backbone_facts import BackboneFacts, check_license
from csr_hf.publishing.card_sections import (
    HEAD_METHODS,
    data_sources,
    limits,
    results_section,
    summary,
    training_section,
    versions_section,
)
from csr_hf.repository import is_hub_id

RESULTS = "results"
"""Folder of a published model that holds what its card quotes."""

_FIGURES, _RECIPE, _PLOT = "results.json", "recipe.yaml", "retention.png"
_MTEB_FIGURES, _MTEB_PLOT = "mteb.json", "mteb.png"
# Name in `results/` -> where a run has it.
_FILES = {
    _FIGURES: ("results.json", "results/results.json"),
    _RECIPE: ("recipe.yaml", "results/recipe.yaml", "model/recipe.yaml"),
    _PLOT: ("retention.png", "results/retention.png"),
    _MTEB_FIGURES: ("evaluation/results.json", "results/mteb.json"),
    _MTEB_PLOT: ("evaluation/retention.png", "results/mteb.png"),
}
_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_MARK = re.compile(r"\n<!-- Made by csr-hf from the files in results/; sha256 ([0-9a-f]{16})\. [^>]*-->\n*\Z")


@dataclass(frozen=True)
class CardOptions:
    """What a card says that no file of a run knows."""

    repo_id: str = "user/name"
    """Where the model will be."""
    license: str | None = None
    """Default the backbone's."""
    datasets: list[str] = field(default_factory=list)
    """Hub ids of the training data; default the run's source, if it is one."""


@dataclass(frozen=True)
class CardFacts:
    """What the files of a run say."""

    config: dict[str, Any]
    """The head's config.json."""
    recipe: dict[str, Any]
    """The resolved recipe, with `versions` and `results`; empty without one."""
    measured: list[Results]
    """On held-out rows, and on MTEB; what there is."""
    plots: list[str]
    """Files in `results/`, the most telling first."""

    @classmethod
    def read(cls, folder: Path) -> CardFacts:
        """Read what `write_run_files` wrote, and config.json beside it."""
        import yaml

        from csr_hf.configuration_csr import CSRConfig

        files = folder / RESULTS
        config = CSRConfig.from_pretrained(folder).to_dict()
        recipe = files / _RECIPE
        return cls(
            config=config,
            recipe=(yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}) if recipe.is_file() else {},
            measured=[Results.load(files / name) for name in (_FIGURES, _MTEB_FIGURES) if (files / name).is_file()],
            plots=[name for name in (_MTEB_PLOT, _PLOT) if (files / name).is_file()],
        )

    @cached_property
    def results(self) -> Results | None:
        """All figures together."""
        datasets = {task: known for part in self.measured for task, known in part.details.get("datasets", {}).items()}
        rows = [row for part in self.measured for row in part.rows]
        types = {task: kind for part in self.measured for task, kind in part.details.get("task_types", {}).items()}
        return Results(rows, {"datasets": datasets, "task_types": types}) if rows else None

    @cached_property
    def base_model(self) -> str | None:
        """The backbone, if others can fetch it."""
        base = self.config["base_model_name_or_path"]
        return base if base and is_hub_id(base) else None


def write_run_files(source: str | Path, folder: Path) -> None:
    """Copy what a card quotes into `folder/results/`: figures, plot and recipe, without secrets and local paths.

    Args:
        source: output folder of `csr-hf run`, or a folder that holds `results/` already. Missing files are left out.
        folder: the published model.
    """
    import yaml

    source = Path(source)
    for name, places in _FILES.items():
        path = next((source / place for place in places if (source / place).is_file()), None)
        if path is None:
            continue
        content = path.read_bytes()
        if name.endswith(".json"):
            content = (json.dumps(shareable(json.loads(content)), indent=1) + "\n").encode()
        elif name == _RECIPE:
            content = yaml.safe_dump(shareable(yaml.safe_load(content)), sort_keys=False).encode()
        with written_whole(folder / RESULTS / name) as temporary:
            temporary.write_bytes(content)


def write_card(folder: Path, layout: str, options: CardOptions, backbone: BackboneFacts | None) -> list[str]:
    """Write `README.md` and `.eval_results/` into a folder that holds config.json and `results/`.

    Args:
        folder: the published model.
        layout: "full" or "head".
        options: what the files do not say.
        backbone: license and language of the backbone.

    Returns:
        What the user should know.

    Raises:
        ValueError: if the license is freer than the backbone's.
    """
    facts, backbone = CardFacts.read(folder), backbone or BackboneFacts()
    text = render(facts, layout, options, backbone)
    for name, entries in _eval_results(facts).items():
        with written_whole(folder / ".eval_results" / name) as temporary:
            temporary.write_text(entries, encoding="utf-8")
    with written_whole(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    notes = []
    if options.license is None and backbone.license is None:
        notes.append("the card names no license: that of the backbone is unknown (--license)")
    if facts.results is None:
        notes.append("the card has no figures: the run was not evaluated")
    return notes


def render(facts: CardFacts, layout: str, options: CardOptions, backbone: BackboneFacts) -> str:
    """The card as text; the same files and options give the same text.

    Raises:
        ValueError: if the license is freer than the backbone's.
    """
    from huggingface_hub import ModelCard

    config, k = facts.config, facts.config["k"]
    revision = config["base_model_revision"]
    card = ModelCard.from_template(
        _card_data(facts, layout, options, backbone),
        template_path=str(_TEMPLATE),
        name=options.repo_id.rsplit("/", 1)[-1],
        repo_id=options.repo_id,
        layout=layout,
        base_model=facts.base_model,
        revision_argument=f', revision="{revision}"' if revision else "",
        input_dim=config["input_dim"],
        modalities=config.get("modalities"),
        k=k,
        small_k=max(1, k // 2),
        query_k=min(2 * k, config["hidden_dim"]),
        plots=[f"{RESULTS}/{name}" for name in facts.plots],
        summary=summary(config, facts.base_model, facts.results),
        results=results_section(facts.measured, RESULTS),
        training=training_section(config, facts.recipe, RESULTS),
        limits=limits(config, facts.recipe, facts.results),
        versions=versions_section(facts.recipe),
    )
    text = str(card).rstrip("\n") + "\n"
    return (
        text
        + f"\n<!-- Made by csr-hf from the files in results/; sha256 {_digest(text)}. Change those, not this. -->\n"
    )


def is_generated(card: str) -> bool:
    """Whether a card is as csr_hf made it: no person has changed a character of it."""
    card = card.replace("\r\n", "\n")
    mark = _MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:16]


def _card_data(facts: CardFacts, layout: str, options: CardOptions, backbone: BackboneFacts) -> Any:
    from huggingface_hub import ModelCardData

    license = options.license or backbone.license
    if license is not None:
        check_license(license, backbone)
    datasets = options.datasets or [
        source
        for source in data_sources(facts.recipe)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and Path(source).suffix not in (*FILE_FORMATS, *ARRAY_FORMATS)
    ]
    evaluated = facts.results.rows if facts.results else []
    fields = {
        "base_model": facts.base_model,
        "base_model_relation": "adapter" if facts.base_model else None,
        "library_name": "sentence-transformers" if layout == "full" else "transformers",
        "pipeline_tag": "feature-extraction",
        "license": license,
        "language": backbone.language,
        "tags": ["sentence-transformers", "sparse-encoder", "sparse", "csr", "csr_hf"],
        "datasets": datasets or None,
        **(backbone.extra if license == backbone.license else {}),
    }
    if evaluated:
        name = options.repo_id.rsplit("/", 1)[-1]
        fields |= {"model_name": name, "eval_results": [_legacy_result(facts, row) for row in _shown(evaluated)]}
    return ModelCardData(**{key: value for key, value in fields.items() if value is not None})


def _shown(rows: list[Row]) -> list[Row]:
    """The head's own figures in each task's main metric."""
    main = {row.task: row.metric for row in reversed(rows)}
    return [row for row in rows if row.method in HEAD_METHODS and row.metric == main[row.task]]


def _legacy_result(facts: CardFacts, row: Row) -> Any:
    """An entry of `model-index`, the older of the Hub's two formats."""
    from huggingface_hub import EvalResult

    dataset = _dataset(facts, row.task)
    # What a run measures of its held-out rows is retrieval.
    kind = facts.results.details["task_types"].get(row.task, "Retrieval") if facts.results else "Retrieval"
    return EvalResult(
        task_type=re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind).lower(),
        task_name=kind,
        dataset_type=dataset.get("id") or re.sub(r"\W+", "-", row.task).strip("-").lower(),
        dataset_name=row.task,
        dataset_revision=dataset.get("revision"),
        metric_type=re.sub(r"\W+", "_", row.metric.replace("@", "_at_")).lower(),
        metric_name=f"{row.metric}, k={row.k}, {row.bytes_per_vector} bytes ({row.method})",
        metric_value=round(row.score, 4),
    )


def _eval_results(facts: CardFacts) -> dict[str, str]:
    """File names and contents of `.eval_results/`, for the tasks whose data set is on the Hub."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files: dict[str, list[EvalResultEntry]] = {}
    for row in _shown(facts.results.rows) if facts.results else []:
        dataset = _dataset(facts, row.task)
        if not dataset:
            continue
        entry = EvalResultEntry(
            dataset_id=dataset["id"],
            task_id=dataset.get("task_id", "default"),
            dataset_revision=dataset.get("revision"),
            value=round(row.score, 4),
            notes=f"{row.metric}, k={row.k}, {row.bytes_per_vector} bytes a document ({row.method})",
        )
        files.setdefault(re.sub(r"\W+", "-", row.task).strip("-") + ".yaml", []).append(entry)
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) for name, entries in files.items()
    }


def _dataset(facts: CardFacts, task: str) -> dict[str, str]:
    """Hub id, revision and task id of a task's data, where the results say so."""
    return facts.results.details.get("datasets", {}).get(task, {}) if facts.results else {}
