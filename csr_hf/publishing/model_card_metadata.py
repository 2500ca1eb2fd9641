"""What the Hub reads of a model card: its front matter, and the results of its tasks in `.eval_results/`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from csr_hf.data.readers import is_file_name
from csr_hf.evaluation.intervals import half_width
from csr_hf.evaluation.results import Row
from csr_hf.publishing.backbone_facts import BackboneFacts
from csr_hf.publishing.model_card_facts import CardFacts
from csr_hf.publishing.model_card_sections import list_data_sources
from csr_hf.repository import is_hub_id
from csr_hf.runs.folder import RunFolder

_TAGS = ["sparse", "csr", "csr_hf"]
_CATEGORIES: dict[str, dict[str, Any]] = {
    "full": {
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["sentence-transformers", "sparse-encoder", *_TAGS],
    },
    # What the Hub's page then offers, `AutoModel.from_pretrained` with remote code, works for a head alone. For
    # "feature-extraction" it would also offer transformers' pipeline, which wants a tokenizer, and for the tags of
    # sentence-transformers its classes, which want the backbone.
    "head": {"library_name": "transformers", "pipeline_tag": "sentence-similarity", "tags": _TAGS},
}
"""By layout, where the Hub lists a model and which code its page offers."""


UNNAMED = "user/name"
"""Stands for a name that nobody gave."""


@dataclass(frozen=True)
class CardOptions:
    """What the author of a card adds to the files of a run."""

    repo_id: str = UNNAMED
    """Where the model will be published; an export without one is called like its run."""
    license: str | None = None
    """Default the backbone's."""
    datasets: list[str] = field(default_factory=list)
    """Hub ids of the training data; default the sources in the recipe that are Hub ids."""

    def called(self, source: str) -> CardOptions:
        """Take the name of what is exported where the author gave none.

        Args:
            source: folder of a run, which is called like it; Hub id; or another folder, which says nothing.
        """
        if self.repo_id != UNNAMED:
            return self
        if is_hub_id(source) and "/" in source:
            return replace(self, repo_id=source)
        path = Path(source).resolve()
        run = next((each for each in (path, path.parent) if RunFolder.of(each).is_run), None)
        if run is None or path not in (run, RunFolder.of(run).model):
            return self
        words = re.sub(r"[^\w.-]+", "-", run.name, flags=re.ASCII).strip("-._")
        return replace(self, repo_id=f"user/{words}") if words else self

    @property
    def name(self) -> str:
        """The model's name: `repo_id` without the user."""
        return self.repo_id.rsplit("/", 1)[-1]


def make_card_data(facts: CardFacts, layout: str, options: CardOptions, backbone: BackboneFacts) -> Any:
    """Make the front matter of a card, a `huggingface_hub.ModelCardData`.

    Args:
        facts: of the run.
        layout: "full" or "head"; decides which library the Hub names.
        options: of the author.
        backbone: license and language of the backbone.
    """
    from huggingface_hub import ModelCardData

    license = options.license or backbone.license
    datasets = options.datasets or [
        source
        for source in list_data_sources(facts.recipe)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not is_file_name(source)
    ]
    fields = {
        "base_model": facts.base_model,
        "base_model_relation": "adapter" if facts.base_model else None,
        **_CATEGORIES[layout],
        "license": license,
        "language": backbone.language,
        "datasets": datasets or None,
        **(backbone.extra if license == backbone.license else {}),
    }
    if facts.results:
        rows = _select_main_rows(facts.results.rows)
        fields |= {"model_name": options.name, "eval_results": [_make_index_entry(facts, row) for row in rows]}
    return ModelCardData(**{key: value for key, value in fields.items() if value is not None})


def make_eval_results(facts: CardFacts) -> dict[str, str]:
    """Make the files of `.eval_results/`, for the tasks whose data set is on the Hub: file name to YAML text."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files: dict[str, list[EvalResultEntry]] = {}
    for row in _select_main_rows(facts.results.rows) if facts.results else []:
        dataset = _dataset_of(facts, row.task)
        if not dataset:
            continue
        entry = EvalResultEntry(
            dataset_id=dataset["id"],
            task_id=dataset.get("task_id", "default"),
            dataset_revision=dataset.get("revision"),
            value=round(row.score, 4),
            notes=f"{row.metric}, k={row.k}, {row.bytes_per_vector} bytes a document ({row.method}){_sureness(row)}",
        )
        files.setdefault(re.sub(r"\W+", "-", row.task).strip("-") + ".yaml", []).append(entry)
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) for name, entries in files.items()
    }


def _sureness(row: Row) -> str:
    """Say on how many queries a score stands, and its interval, as far as they are known."""
    on = f", on {row.n_queries:,} {row.unit}" if row.n_queries is not None else ""
    width = half_width(row.interval)
    return on + (f", ± {width:.4f} (95 %)" if width > 0 else "")


def _select_main_rows(rows: list[Row]) -> list[Row]:
    """Select the head's own results in each task's main metric, which is the task's first."""
    main = {row.task: row.metric for row in reversed(rows)}
    return [row for row in rows if row.is_code_alone and row.metric == main[row.task]]


def _make_index_entry(facts: CardFacts, row: Row) -> Any:
    """Make an entry of `model-index`, the older of the Hub's two formats."""
    from huggingface_hub import EvalResult

    dataset = _dataset_of(facts, row.task)
    # Only MTEB results carry task types; a run measures retrieval on its held-out rows.
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


def _dataset_of(facts: CardFacts, task: str) -> dict[str, str]:
    """Return Hub id, revision and task id of a task's data set, as far as the results record them."""
    return facts.results.details.get("datasets", {}).get(task, {}) if facts.results else {}
