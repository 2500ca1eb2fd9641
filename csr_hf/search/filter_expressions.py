"""Conditions on the metadata of documents, as expressions of pyarrow."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csr_hf.search.filters import Combination, Comparison, Condition, Membership, Missing, Negation

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_MOST_EXACT = 2**53
ARROW_ERRORS = (pa.ArrowException, MemoryError, OverflowError)
"""What pyarrow raises for values that do not fit."""


def to_expression(condition: Condition, table: pa.Table) -> pc.Expression:
    """Turn a condition on the columns of a table into an expression of pyarrow.

    Raises:
        ValueError: for values that a column cannot be compared with.
    """
    if isinstance(condition, Combination):
        joined = [to_expression(each, table) for each in condition.conditions]
        # By pairs, so that a thousand conditions are ten deep.
        while len(joined) > 1:
            pairs = zip(joined[::2], joined[1::2], strict=False)
            rest = joined[len(joined) // 2 * 2 :]
            joined = [(left & right if condition.operator == "and" else left | right) for left, right in pairs] + rest
        return joined[0]
    if isinstance(condition, Negation):
        return ~to_expression(condition.condition, table)
    field = pc.field(condition.column)
    if isinstance(condition, Missing):
        return field.is_null()
    column = table.schema.field(condition.column)
    if pa.types.is_large_string(column.type) and are_numbers(condition):
        field, column = _read_numbers(table, condition), column.with_type(pa.float64())
    if isinstance(condition, Membership):
        values = _fitting_values(condition, column)
        found = field.isin(pa.array(values, column.type)) if values else pc.scalar(False)
        # In itself, a missing value is in no list, so that it would be in every negation.
        return pc.if_else(field.is_valid(), found, pa.scalar(None, pa.bool_()))
    value = to_scalar(condition.value, column)
    if pa.types.is_integer(column.type):
        return _compare_whole(field, condition.operator, value.as_py(), column.type)
    return _compare(field, condition.operator, value)


def _read_numbers(table: pa.Table, condition: Comparison | Membership) -> pc.Expression:
    """Read the numbers of a column of texts, as files such as csv hold them; what is no number has no value.

    Raises:
        ValueError: if no text is a number, or a number is wanted that floats do not tell from its neighbors.
    """
    name, given = condition.column, condition.values if isinstance(condition, Membership) else (condition.value,)
    for value in given:
        if isinstance(value, int) and abs(value) > _MOST_EXACT:
            raise ValueError(f"`filter`: {name!r} holds texts, whose numbers are read up to 2**53. Write '{value}'.")
    texts = pc.drop_null(pc.utf8_trim_whitespace(table[name].combine_chunks()))
    are_texts = pc.not_equal(texts, "")
    if pc.any(are_texts).as_py() and not pc.any(pc.match_substring_regex(texts, _NUMBER)).as_py():
        raise ValueError(f"`filter`: {name!r} holds texts, none of them a number. Write {given[0]!r} in quotes.")
    trimmed = pc.utf8_trim_whitespace(pc.field(name))
    is_number = pc.match_substring_regex(trimmed, _NUMBER)
    return pc.if_else(is_number, trimmed, pa.scalar(None, pa.large_string())).cast(pa.float64())


def _fitting_values(condition: Membership, column: pa.Field) -> list[Any]:
    """List the values that a column of this type can hold; it is equal to no other."""
    values = [to_scalar(value, column).as_py() for value in condition.values]
    if pa.types.is_integer(column.type):
        bounds = np.iinfo(column.type.to_pandas_dtype())
        return [int(value) for value in values if value == value // 1 and bounds.min <= value <= bounds.max]
    return [value for value in values if not pa.types.is_decimal(column.type) or _fits(value, column.type)]


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.scalar(value, kind)
    except ARROW_ERRORS:
        return False
    return True


def _compare(field: pc.Expression, operator: str, value: pa.Scalar) -> pc.Expression:
    compared: dict[str, Any] = {
        **{"==": field == value, "!=": field != value, "<": field < value},
        **{"<=": field <= value, ">": field > value, ">=": field >= value},
    }
    return compared[operator]


def _compare_whole(field: pc.Expression, operator: str, value: float, kind: pa.DataType) -> pc.Expression:
    """Compare a column of integers with a number, exactly: Arrow would round both to floats of 32 bits."""
    bounds = np.iinfo(kind.to_pandas_dtype())
    is_below, is_within = operator in ("<", "<="), bounds.min <= value <= bounds.max
    if is_within and value == int(value):
        other = pa.scalar(int(value), kind)
    elif operator in ("==", "!=") or not is_within:
        fits = operator == "!=" if operator in ("==", "!=") else (value > bounds.max) == is_below
        # A missing value fits neither this nor its negation.
        return pc.if_else(field.is_valid(), pa.scalar(fits), pa.scalar(None, pa.bool_()))
    else:
        other, operator = pa.scalar(math.floor(value), kind), "<=" if is_below else ">"
    return _compare(field, operator, other)


def are_numbers(condition: Comparison | Membership) -> bool:
    """Tell whether a condition compares with numbers alone."""
    values = condition.values if isinstance(condition, Membership) else (condition.value,)
    return bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def to_scalar(value: Any, column: pa.Field) -> pa.Scalar:
    """Return a value as a column can be compared with it.

    Raises:
        ValueError: for a value of another kind than the column.
    """
    kind, is_text = column.type, isinstance(value, str)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    try:
        if numeric and isinstance(value, int | float) and not isinstance(value, bool):
            if pa.types.is_decimal(kind):
                return pa.scalar(Decimal(str(value)))
            if pa.types.is_floating(kind):
                # A column of 32 bits holds 0.1 as the float next to it.
                return pa.scalar(float(value), kind)
            return pa.scalar(value, pa.uint64() if isinstance(value, int) and value >= 2**63 else None)
        if is_text and pa.types.is_temporal(kind):
            return pa.scalar(value).cast(kind)
        if (is_text and (pa.types.is_large_string(kind))) or (isinstance(value, bool) and pa.types.is_boolean(kind)):
            return pa.scalar(value, kind)
    except (UnicodeError, *ARROW_ERRORS):
        pass
    advice = f"write {value!r} in quotes" if pa.types.is_large_string(kind) else "write a value of that kind"
    raise ValueError(f"`filter`: {column.name!r} holds {kind}, which {value!r:.80} is not: {advice}.")
