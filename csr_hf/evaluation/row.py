"""`Row`: one measured figure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from csr_hf.evaluation.intervals import Interval, half_width


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
    n_queries: int | None = None
    """Queries, pairs or draws that the score stands on; None where nothing says."""
    unit: str = "queries"
    """What `n_queries` counts: "queries", "pairs" or "draws"."""
    n_documents: int | None = None
    """Documents that are searched; None where nothing is."""
    interval: Interval | None = None
    """95 % confidence interval of the score, by the bootstrap over what it stands on."""
    retention_interval: Interval | None = None
    """The same of the retention, with both methods on the same resamples."""

    @property
    def is_code_alone(self) -> bool:
        """Whether nothing but the head's code is stored: no residual."""
        return self.method.startswith("CSR") and not self.method.startswith("CSR + ")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it; what is unknown is left out, `k` aside."""
        fields = dataclasses.asdict(self)
        known = {name: value for name, value in fields.items() if value is not None or name == "k"}
        return {name: value for name, value in known.items() if (name, value) != ("unit", "queries")}

    def shown(self, *, with_intervals: bool = True) -> list[str]:
        """Return score and retention as tables show them, with no more digits than their intervals make sense of."""
        digits = 4 if self.interval is None else 3
        found = [f"{self.score:.{digits}f}", f"{self.retention:.3f}"]
        if with_intervals:
            for place, interval in enumerate((self.interval, self.retention_interval)):
                # The dense model keeps all of itself on every resample.
                if half_width(interval) > 0:
                    found[place] += f" ± {half_width(interval):.3f}"
        return found

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Row:
        """Make one of what JSON holds.

        Raises:
            TypeError: for unknown fields, missing ones, values of another type, or an interval that is no pair.
        """
        for name in ("interval", "retention_interval"):
            if fields.get(name) is not None:
                low, high = map(float, fields[name])
                fields = {**fields, name: (low, high)}
        row = cls(**fields)
        texts = (row.task, row.metric, row.method, row.unit)
        counts = (row.k, row.n_queries, row.n_documents)
        numbers = (row.bytes_per_vector, row.score, row.retention, *(each for each in counts if each is not None))
        if not all(isinstance(each, str) for each in texts) or not all(
            isinstance(each, int | float) for each in numbers
        ):
            raise TypeError("a row of figures has a text for a number, or the other way around")
        return row
