"""Measured figures: the rows behind tables, plots and model cards."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.plumbing.atomic import write_whole
from csr_hf.runs.folder import RESULTS

if TYPE_CHECKING:
    from rich.table import Table

_FORMAT = "csr_hf.results/1"
_MANY_COLUMNS = 7

_DISTANCE = (
    "The backbone compares embeddings by {} distance, and the dense model is measured so. A search by CSR compares by "
    "cosine, since inverted lists know no distances."
)
_COMPARED = {
    "dot": "The backbone compares embeddings by dot product, and so do all methods.",
    "euclidean": _DISTANCE.format("Euclidean"),
    "manhattan": _DISTANCE.format("Manhattan"),
}

SEEN = " (the head was trained on its data)"
"""Appended to the name of a task wherever it is shown, if the head has seen the task."""


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    task: str
    metric: str
    method: str
    k: int | None
    """Active latents of a document; None where a method has none."""
    bytes_per_vector: int
    """Bytes stored for one document."""
    score: float
    retention: float
    """Score divided by the dense model's score on the same task and metric."""


@dataclass
class Results:
    """All figures of one run, and how they were measured."""

    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)
    """Command, machine, versions, settings: what somebody needs to repeat the run; `similarity`, by which the backbone
    compares embeddings."""

    def select(self, **wanted: Any) -> list[Row]:
        """Select the rows whose fields equal all of `wanted`."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in wanted.items())]

    def save(self, folder: str | Path) -> None:
        """Write `results.json` and `results.md` into a folder."""
        content = {"format": _FORMAT, **self.details, "rows": [dataclasses.asdict(row) for row in self.rows]}
        path = Path(folder) / RESULTS
        for file, text in ((path, json.dumps(content, indent=1)), (path.with_suffix(".md"), self.to_markdown())):
            with write_whole(file) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read `results.json`, or a folder that holds one.

        Raises:
            ValueError: if there is none, or the file holds something else.
        """
        path = Path(path)
        path = path / RESULTS if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError(f"it is not of the format {_FORMAT}")
            rows = [Row(**row) for row in content.pop("rows")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no results of csr_hf: {error!r}. `csr-hf run` writes them.") from error
        return cls(rows, content)

    def summary_markdown(self) -> str:
        """Make one table of all tasks: scores of the dense model, retention of every other method."""
        tasks = list(dict.fromkeys(row.task for row in self.rows))
        main = {row.task: row.metric for row in reversed(self.rows)}
        lines: dict[tuple, dict[str, Row]] = {}
        for row in self.rows:
            if row.metric == main[row.task]:
                lines.setdefault((row.method, row.k, row.bytes_per_vector), {})[row.task] = row
        header = ["method", "k", "bytes", *(f"{task} ({main[task]}){self._mark(task)}" for task in tasks), "mean"]
        table = [_markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
        for (method, k, size), found in lines.items():
            is_dense = method == "dense"
            figures = [
                (f"{found[task].score:.4f}" if is_dense else f"{found[task].retention:.3f}") if task in found else ""
                for task in tasks
            ]
            kept = [row.retention for row in found.values()]
            mean = f"{sum(kept) / len(kept):.3f}" if len(kept) == len(tasks) else ""
            table.append(_markdown_row([method, "" if k is None else str(k), str(size), *figures, mean]))
        return "\n".join(table)

    def to_markdown(self) -> str:
        """Make a table for each task, before them a summary of several tasks, and a note on how they were measured."""
        several = len({row.task for row in self.rows}) > 1
        lines = ["### All tasks, share of the dense score", "", self.summary_markdown(), ""] if several else []
        for task in dict.fromkeys(row.task for row in self.rows):
            header, body = self._table(task)
            lines += [
                f"### {task}{self._mark(task)}",
                "",
                _markdown_row(header),
                _markdown_row(["---"] + ["---:"] * (len(header) - 1)),
            ]
            lines += [*map(_markdown_row, body), ""]
        if self.compared_by:
            lines.append(f"{self.compared_by}  ")
        for name in ("command", "machine", "note"):
            if name in self.details:
                lines.append(f"{name.capitalize()}: {self.details[name]}  ")
        return "\n".join(lines).rstrip()

    @property
    def compared_by(self) -> str:
        """A sentence on the similarity that all methods approximate; empty for cosine."""
        return _COMPARED.get(str(self.details.get("similarity")), "")

    def to_tables(self) -> list[Table]:
        """Make the table of each task for a terminal."""
        from rich.table import Table

        tables = []
        for task in dict.fromkeys(row.task for row in self.rows):
            header, body = self._table(task)
            caption = self.compared_by or None
            table = Table(title=task + self._mark(task), title_justify="left", caption=caption, caption_justify="left")
            for number, name in enumerate(header):
                # A shorter name lets several metrics fit on a line.
                name = "kept" if name == "retention" and len(header) > _MANY_COLUMNS else name
                table.add_column(name, justify="right" if number else "left", no_wrap=True)
            for line in body:
                table.add_row(*line, style="bold" if line[0].startswith("CSR") else None)
            tables.append(table)
        return tables

    def _mark(self, task: str) -> str:
        return SEEN if task in self.details.get("seen", ()) else ""

    def _table(self, task: str) -> tuple[list[str], list[list[str]]]:
        """Make header and lines: one line for each method and k, with score and retention for each metric."""
        rows = [row for row in self.rows if row.task == task]
        metrics = list(dict.fromkeys(row.metric for row in rows))
        lines: dict[tuple, dict[str, Row]] = {}
        for row in rows:
            lines.setdefault((row.method, row.k, row.bytes_per_vector), {})[row.metric] = row
        # The dense model scores 1 on these by definition, so score and retention are the same.
        plain = {
            metric for metric in metrics if all(row.score == row.retention for row in rows if row.metric == metric)
        }
        header = ["method", "k", "bytes"]
        for metric in metrics:
            header += [metric] if metric in plain else [metric, "retention"]
        body = []
        for (method, k, size), found in lines.items():
            figures = []
            for metric in metrics:
                figure = found.get(metric)
                shown = [f"{figure.score:.4f}", f"{figure.retention:.3f}"] if figure else ["", ""]
                figures += shown[:1] if metric in plain else shown
            body.append([method, "" if k is None else str(k), str(size), *figures])
        return header, body


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
