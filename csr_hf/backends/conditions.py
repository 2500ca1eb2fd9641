"""Conditions on metadata as tests of fields, which are all that an engine needs to know: what fits is what is true.

In a condition, a missing value makes a comparison neither true nor false. Engines differ in that, so negations are
moved inward until each stands at one field, where it says what it means: the field has a value, and another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa

from csr_hf.backends.metadata import NUMERIC, arrow_field, field_name, number_name
from csr_hf.search.filter_expressions import are_numbers, to_scalar
from csr_hf.search.filters import Combination, Comparison, Condition, Membership, Missing, Negation, parse_filter

Value = str | int | float | bool
Operator = Literal["<", "<=", ">", ">="]
_Filter = TypeVar("_Filter")
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Among(NamedTuple):
    """A field has one of some values; or, excluded, it has a value and that is none of them."""

    field: str
    values: tuple[Value, ...]
    """At least one; all of one type, that of the field."""
    excluded: bool


class Bound(NamedTuple):
    """A field has a value below or above another: of numbers, or of texts by their bytes in UTF-8."""

    field: str
    operator: Operator
    value: str | int | float


class Presence(NamedTuple):
    """A field has a value, or has none."""

    field: str
    expected: bool


class Junction(NamedTuple):
    """All of several tests hold, or any of them."""

    operator: Literal["and", "or"]
    tests: tuple[Test, ...]


Test = Among | Bound | Presence | Junction


def read_condition(text: str, columns: Mapping[str, str]) -> Test | None:
    """Read a condition as tests of fields.

    Args:
        text: as `parse_filter` reads it.
        columns: of the collection, name -> kind.

    Returns:
        None where no document can fit.

    Raises:
        ValueError: for what is no condition, unknown columns, and values that a column cannot be compared with.
    """
    return _translate(parse_filter(text, list(columns)), columns, negated=False)


def _translate(condition: Condition, columns: Mapping[str, str], *, negated: bool) -> Test | None:
    """Return the tests that hold where a condition is true; negated, where it is false."""
    if isinstance(condition, Negation):
        return _translate(condition.condition, columns, negated=not negated)
    if isinstance(condition, Combination):
        found = [_translate(each, columns, negated=negated) for each in condition.conditions]
        is_and = (condition.operator == "and") != negated
        kept = tuple(each for each in found if each is not None)
        if not kept or (is_and and len(kept) < len(found)):
            return None
        return kept[0] if len(kept) == 1 else Junction("and" if is_and else "or", kept)
    if isinstance(condition, Missing):
        return Presence(field_name(condition.column), negated)
    name, field = _find_field(condition, columns)
    if isinstance(condition, Membership):
        return _among(name, [_plain(to_scalar(value, field)) for value in condition.values], field, excluded=negated)
    value = _plain(to_scalar(condition.value, field))
    operator: Any = _OPPOSITE[condition.operator] if negated else condition.operator
    if operator in ("==", "!="):
        return _among(name, [value], field, excluded=operator == "!=")
    if isinstance(value, bool):
        # False comes before True.
        values = [each for each in (False, True) if _compare(each, operator, value)]
        return _among(name, values, field, excluded=False)
    return _bound(name, operator, value, field)


def _find_field(condition: Comparison | Membership, columns: Mapping[str, str]) -> tuple[str, pa.Field]:
    """Return the field of a backend that a condition is about, and the column that it stands for."""
    kind = columns[condition.column]
    field = arrow_field(condition.column, kind)
    if not (pa.types.is_large_string(field.type) and are_numbers(condition)):
        return field_name(condition.column), field
    if kind != NUMERIC:
        raise ValueError(
            f"`filter` compares texts with numbers: not all of {condition.column!r} are. Write the value in quotes."
        )
    return number_name(condition.column), pa.field(condition.column, pa.float64())


def _plain(scalar: pa.Scalar) -> Value:
    """Return a value as fields hold it."""
    value: Any = scalar.value if pa.types.is_temporal(scalar.type) else scalar.as_py()
    return value


def _among(name: str, values: Sequence[Value], field: pa.Field, *, excluded: bool) -> Test | None:
    """Test for equality. What no document can have is left out."""
    kept = tuple(dict.fromkeys(_lift(value, field) for value in values if _is_possible(value, field)))
    if kept:
        return Among(name, kept, excluded)
    return Presence(name, True) if excluded else None


def _is_possible(value: Value, field: pa.Field) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if pa.types.is_floating(field.type) or pa.types.is_decimal(field.type):
        return math.isfinite(value)
    return math.isfinite(value) and value == math.floor(value) and _LOWEST <= value <= _HIGHEST


def _lift(value: Value, field: pa.Field) -> Value:
    if isinstance(value, str | bool):
        return value
    return float(value) if pa.types.is_floating(field.type) or pa.types.is_decimal(field.type) else int(value)


def _bound(name: str, operator: Operator, value: str | int | float, field: pa.Field) -> Test | None:
    """Test for order. Bounds that no document or every one is within are none."""
    is_below = operator in ("<", "<=")
    if isinstance(value, str):
        # No text holds a zero character; those that begin alike are shorter or beyond it.
        before, zero, _ = value.partition("\0")
        return Bound(name, ("<=" if is_below else ">") if zero else operator, before)
    lowest, highest = (_LOWEST, _HIGHEST)
    if pa.types.is_floating(field.type) or pa.types.is_decimal(field.type):
        lowest, highest = (-math.inf, math.inf)  # type: ignore[assignment]
        if math.isfinite(value):
            return Bound(name, operator, float(value))
    elif lowest <= value <= highest:
        whole = math.floor(value)
        if whole == value:
            return Bound(name, operator, int(value))
        return Bound(name, "<=", whole) if is_below else Bound(name, ">", whole)
    return Presence(name, True) if (value >= highest) == is_below else None


def _compare(one: bool, operator: Operator, other: bool) -> bool:
    return {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[operator]


def fold(
    test: Test, leaf: Callable[[Among | Bound | Presence], _Filter], join: Callable[[str, list[_Filter]], _Filter]
) -> _Filter:
    """Build an engine's own filter from tests.

    Args:
        test: to translate.
        leaf: a function of `Among`, `Bound` or `Presence`.
        join: a function of "and" or "or", and the filters of the parts.
    """
    if isinstance(test, Junction):
        return join(test.operator, [fold(each, leaf, join) for each in test.tests])
    return leaf(test)
