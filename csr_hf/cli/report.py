"""What a command says when it is done: to a reader, or to a program with `--json`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from csr_hf.evaluation.results import Results
    from csr_hf.explain.why import Match
    from csr_hf.runs.searcher import Hit


def _show_nothing() -> None:
    """Print nothing: the log has said all there is to say."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a command says when it is done.

    Args:
        data: the result, for programs; values that are no JSON are made so by `to_json`.
        show: prints the same result for readers.
        advice: lines on what to do next, which `--quiet` leaves out.
        code: exit code of the command.
    """

    data: Mapping[str, Any]
    show: Callable[[], None] = _show_nothing
    advice: Sequence[str] = ()
    code: int = 0

    def write_json(self, stream: TextIO) -> None:
        """Write the result as one JSON document, in ASCII, which every terminal and pipe takes."""
        stream.write(json.dumps(to_json(self.data), indent=1, allow_nan=False) + "\n")
        stream.flush()

    def print(self, *, quiet: bool = False) -> None:
        """Print the result for a reader.

        Args:
            quiet: leave out the advice.
        """
        from csr_hf.cli.output import print_line

        self.show()
        for line in () if quiet else self.advice:
            print_line(line)


def to_json(value: Any) -> Any:
    """Convert nested values to what JSON knows: paths become texts, arrays lists, NaN and infinite numbers null."""
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, list | tuple | set):
        return [to_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def results_data(results: Results | None) -> dict[str, Any] | None:
    """Return figures for `--json`: how they were measured, and the rows; None where nothing was measured."""
    if results is None:
        return None
    return {**results.details, "rows": [dataclasses.asdict(row) for row in results.rows]}


def hits_data(
    question: str,
    hits: Sequence[Hit],
    milliseconds: float | None = None,
    fields: Mapping[str, str] | None = None,
    reasons: Sequence[Match] = (),
) -> dict[str, Any]:
    """Return the answer to a question for `--json`: whole texts, and in `metadata` what else is kept of a document.

    Args:
        question: as it was asked.
        hits: the best first.
        milliseconds: that the search took; None leaves them out.
        fields: what the user asked for, name -> column; None for all.
        reasons: why each was found: in `why`, shares of latents that sum to the score.
    """
    timed = {} if milliseconds is None else {"milliseconds": milliseconds}
    found = [
        {
            "id": hit.id,
            "score": hit.score,
            "text": hit.text,
            # Columns have any names, also those above.
            "metadata": hit.metadata
            if fields is None
            else {name: hit.read(column) for name, column in fields.items()},
        }
        for hit in hits
    ]
    for hit, match in zip(found, reasons, strict=False):
        hit["why"] = [share._asdict() for share in match.shares]
    return {"question": question, **timed, "hits": found}
