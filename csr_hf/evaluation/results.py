"""Measured figures: the rows behind tables, plots and model cards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.evaluation.equal_bytes import BudgetTable, join_numbers, make_budget_table
from csr_hf.evaluation.intervals import RESAMPLES, half_width
from csr_hf.evaluation.row import Row
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.foreign import one_line
from csr_hf.runs.folder import RESULTS

if TYPE_CHECKING:
    from rich.table import Table

_FORMAT = "csr_hf.results/1"
# More do not fit on a line of a terminal with an interval in each.
_MOST_COLUMNS = 6
_FEW_QUERIES = 100

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


@dataclass
class Results:
    """All figures of one run, and how they were measured."""

    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)
    """Command, machine, versions, settings: what somebody needs to repeat the run; `similarity`, by which the backbone
    compares embeddings; `head`, the fingerprint of the head that was measured."""

    @property
    def head(self) -> str | None:
        """Fingerprint of the head that was measured; None if nothing says."""
        return self.details.get("head")

    def select(self, **wanted: Any) -> list[Row]:
        """Select the rows whose fields equal all of `wanted`."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in wanted.items())]

    def save(self, folder: str | Path) -> None:
        """Write `results.json` and `results.md` into a folder."""
        content = {"format": _FORMAT, **self.details, "rows": [row.to_dict() for row in self.rows]}
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
            rows = [Row.from_dict(row) for row in content.pop("rows")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
            place = 0 if method == "dense" else 1
            figures = [found[task].shown(with_intervals=False)[place] if task in found else "" for task in tasks]
            kept = [row.retention for row in found.values()]
            mean = f"{sum(kept) / len(kept):.3f}" if len(kept) == len(tasks) else ""
            table.append(_markdown_row([method, "" if k is None else str(k), str(size), *figures, mean]))
        return "\n".join(table)

    def to_markdown(self) -> str:
        """Make a table for each task, and a note on how they were measured.

        Before them stand what each method keeps within each budget of bytes, if the results were measured at such, and
        a summary of several tasks.
        """
        several = len({row.task for row in self.rows}) > 1
        lines = self._budget_markdown()
        lines += ["### All tasks, share of the dense score", "", self.summary_markdown(), ""] if several else []
        for task in dict.fromkeys(row.task for row in self.rows):
            header, body = self._table(task, with_intervals=True)
            lines += [
                f"### {task}{self._mark(task)}",
                "",
                _markdown_row(header),
                _markdown_row(["---"] + ["---:"] * (len(header) - 1)),
            ]
            lines += [*map(_markdown_row, body), ""]
            basis = self._describe_basis(task, with_intervals=True)
            lines += [" ".join(basis), ""] if basis else []
        lines += [f"{sentence}  " for sentence in (self.describe_index(), self.compared_by) if sentence]
        for name in ("command", "machine", "note"):
            if name in self.details:
                lines.append(f"{name.capitalize()}: {self.details[name]}  ")
        return "\n".join(lines).rstrip()

    @property
    def budgets(self) -> BudgetTable | None:
        """What each method keeps within each budget of bytes; None if the results were not measured at such."""
        wanted = self.details.get("budgets")
        table = make_budget_table(self.rows, wanted) if wanted and self.rows else None
        return table if table and table.lines else None

    def _budget_markdown(self) -> list[str]:
        if self.budgets is None:
            return []
        header, body = self.budgets.to_cells(lambda figure: f"**{figure}**")
        rows = [
            _markdown_row(header),
            _markdown_row(["---"] + ["---:"] * (len(header) - 1)),
            *map(_markdown_row, body),
        ]
        return [f"### {self._budget_title()}", "", *rows, "", self._explain_budgets(self.budgets), ""]

    def _budget_title(self) -> str:
        tasks = list(dict.fromkeys(row.task for row in self.rows))
        over = f"mean over {len(tasks)} tasks" if len(tasks) > 1 else f"{self.rows[0].metric}, {tasks[0]}"
        return f"At equal bytes, share of the dense score ({over})"

    @staticmethod
    def _explain_budgets(table: BudgetTable) -> str:
        sentence = (
            "The best of each budget is bold. In brackets the bytes that a document takes, where they are fewer. What "
            "has no larger setting within a budget stands in the one before."
        )
        return f"{sentence} {table.describe_rivals()}".strip()

    def describe_index(self) -> str:
        """Say in a sentence what the index of the run finds of the dense model's hits; empty where nothing says."""
        found = self.details.get("index")
        if not found:
            return ""
        return (
            f"`csr-hf search` at its defaults finds {found['score']:.3f} ± {half_width(found['interval']):.3f} of the "
            f"{found['metric']} among all {found['n_documents']:,} documents, asked for {found['n_queries']:,} "
            f"held-out ones. The index has k={found['k']} and takes {found['size']}."
        )

    @property
    def compared_by(self) -> str:
        """A sentence on the similarity that all methods approximate; empty for cosine."""
        return _COMPARED.get(str(self.details.get("similarity")), "")

    def to_tables(self) -> list[Table]:
        """Make the tables for a terminal: that at equal bytes if there is one, then each task's."""
        from rich.text import Text

        tables = []
        if self.budgets is not None:
            header, body = self.budgets.to_cells(lambda figure: f"[bold]{figure}[/]")
            tables.append(_start_table(self._budget_title(), self._explain_budgets(self.budgets)))
            for number, name in enumerate(header):
                tables[0].add_column(name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
            for method, *figures in body:
                tables[0].add_row(one_line(method), *map(Text.from_markup, figures))
        for task in dict.fromkeys(row.task for row in self.rows):
            is_narrow = len(self._table(task, with_intervals=True)[0]) <= _MOST_COLUMNS
            header, body = self._table(task, with_intervals=is_narrow)
            basis = self._describe_basis(task, with_intervals=is_narrow)
            caption = " ".join([*basis, self.compared_by]).strip() or None
            table = _start_table(task + self._mark(task), caption)
            for number, name in enumerate(header):
                # A shorter name lets several metrics fit on a line.
                name = "kept" if name == "retention" and not is_narrow else name
                # Where a line is too long, names of methods break, never a figure.
                shown = one_line(name)
                table.add_column(shown, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
            for line in body:
                table.add_row(*map(one_line, line), style="bold" if line[0].startswith("CSR") else None)
            tables.append(table)
        return tables

    def _mark(self, task: str) -> str:
        return SEEN if task in self.details.get("seen", ()) else ""

    def doubts(self, task: str) -> list[str]:
        """Say where the queries of a task are too few to tell methods apart, in a sentence each.

        That is below a hundred of them, and where methods of the same bytes differ by less than half the width of the
        interval of one of them, by the task's first metric.
        """
        rows = [row for row in self.rows if row.task == task]
        rows = [row for row in rows if row.metric == rows[0].metric]
        count = next((row.n_queries for row in rows if row.n_queries is not None), None)
        found = []
        if count is not None and count < _FEW_QUERIES and rows[0].unit != "draws":
            found.append(f"{count} {rows[0].unit} are few: some hundreds tell methods apart.")
        alike: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            for other in rows if row.method.startswith("CSR") else ():
                if other.method.startswith("CSR") or other.bytes_per_vector != row.bytes_per_vector:
                    continue
                width = max(half_width(each.retention_interval) for each in (row, other))
                if abs(row.retention - other.retention) < width:
                    alike.setdefault((row.method, other.method), []).append(row.bytes_per_vector)
        pairs = [f"{' and '.join(pair)} ({join_numbers(sizes)} bytes)" for pair, sizes in alike.items()]
        if pairs:
            found.append(f"Not told apart by these {rows[0].unit}: {'; '.join(pairs)}.")
        return found

    def _describe_basis(self, task: str, *, with_intervals: bool) -> list[str]:
        """Say in sentences what the figures of a task stand on, how sure they are, and what they do not tell apart.

        Args:
            task: its name.
            with_intervals: whether the table shows intervals; else the widest is named.
        """
        rows = [row for row in self.rows if row.task == task and row.n_queries is not None]
        if not rows:
            return []
        documents = f" and {rows[0].n_documents:,} documents" if rows[0].n_documents is not None else ""
        found = [f"On {rows[0].n_queries:,} {rows[0].unit}{documents}."]
        intervals = [each for row in rows for each in (row.interval, row.retention_interval) if each]
        if intervals:
            means = f"95 % confidence, by the bootstrap over {rows[0].unit} ({RESAMPLES:,} resamples)"
            widest = max(map(half_width, intervals))
            found.append(f"±: {means}." if with_intervals else f"At most ± {widest:.3f}: {means}.")
        return found + self.doubts(task)

    def _table(self, task: str, *, with_intervals: bool) -> tuple[list[str], list[list[str]]]:
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
                shown = figure.shown(with_intervals=with_intervals) if figure else ["", ""]
                figures += shown[:1] if metric in plain else shown
            body.append([method, "" if k is None else str(k), str(size), *figures])
        return header, body


def find_other_head(path: Path, head: str) -> str | None:
    """Say in a sentence that figures are of another head than this one; None if they are its own.

    Args:
        path: of the results.
        head: fingerprint of the head.

    Raises:
        ValueError: as `Results.load` does.
    """
    measured = Results.load(path).head
    if measured == head:
        return None
    of = f"of another head ({measured})" if measured else "of a head that they do not name"
    return f"{path} holds figures {of}, not of this one ({head}): they are left out; measure this one"


def _start_table(title: str, caption: str | None) -> Table:
    from rich.table import Table

    # Names of tasks are those of data, which somebody else may have named.
    shown = one_line(caption) if caption else None
    return Table(title=one_line(title), title_justify="left", caption=shown, caption_justify="left")


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
