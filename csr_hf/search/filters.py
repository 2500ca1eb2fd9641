"""Conditions on the metadata of documents: `lang == "en" and year > 2020 and not (sku in ["a", "b"])`.

A condition is read by Python's parser, and never run: it holds names of columns, literals, comparisons, `in`, `and`,
`or` and `not`. A missing value fits no comparison and no `in`, and neither does it fit their negation; `== None` finds
it. A column whose name is no Python name is written `column("unit price")`.
"""

from __future__ import annotations

import ast
import json
import keyword
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from csr_hf.plumbing.settings import suggest

_LONGEST = 20_000
_DEEPEST = 50
_EXAMPLE = 'lang == "en" and year > 2020'
_OPERATORS: dict[type, str] = {
    **{ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="},
    **{ast.In: "in", ast.NotIn: "not in", ast.Is: "==", ast.IsNot: "!="},
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

Value = str | int | float | bool


class Comparison(NamedTuple):
    """A column against a value."""

    column: str
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    value: Value


class Membership(NamedTuple):
    """A column against several values, none of them None."""

    column: str
    values: tuple[Value, ...]


class Missing(NamedTuple):
    """A column that has no value."""

    column: str


class Negation(NamedTuple):
    """What a condition excludes."""

    condition: Condition


class Combination(NamedTuple):
    """Several conditions at once, or any of them."""

    operator: Literal["and", "or"]
    conditions: tuple[Condition, ...]


Condition = Comparison | Membership | Missing | Negation | Combination


def parse_filter(text: str, columns: Sequence[str]) -> Condition:
    """Read a condition.

    Args:
        text: such as `lang == "en" and not (price >= 10 or sku in ["a", "b"])`.
        columns: that there are.

    Raises:
        ValueError: for what is no condition, and for unknown columns; the nearest one is named.
    """
    if not isinstance(text, str):
        raise ValueError(f"`filter` is a {type(text).__name__}. Write a text such as {_EXAMPLE}.")
    if len(text) > _LONGEST:
        raise ValueError(
            f"`filter` has {len(text):,} characters; {_LONGEST:,} are read. Pass ids, or a bool for each document."
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds no text"
        raise ValueError(
            f"`filter` ({_shorten(text)}) cannot be read: {reason}. Write it like {_EXAMPLE}.{_explain_names(columns)}"
        ) from error
    return _Reader(text.strip(), columns).read(tree, 0)


def columns_of(condition: Condition) -> set[str]:
    """Return the names of the columns of a condition."""
    if isinstance(condition, Combination):
        return {name for each in condition.conditions for name in columns_of(each)}
    return columns_of(condition.condition) if isinstance(condition, Negation) else {condition.column}


class _Reader:
    """Turns a syntax tree into a condition.

    Args:
        text: that was parsed, for messages.
        columns: that there are.
    """

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self.text, self.columns = text, columns

    def read(self, node: ast.expr, depth: int) -> Condition:
        """Read what is true or false."""
        if depth > _DEEPEST:
            raise ValueError(f"`filter` is nested more than {_DEEPEST} deep. Write it flatter.")
        if isinstance(node, ast.BoolOp):
            conditions = tuple(self.read(each, depth + 1) for each in node.values)
            return Combination("and" if isinstance(node.op, ast.And) else "or", conditions)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Negation(self.read(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            return self._read_chain(node)
        if self._is_column(node):
            return Comparison(self._column(node), "==", True)
        raise self._refusal(node, "is no condition")

    def _read_chain(self, node: ast.Compare) -> Condition:
        operands, found = [node.left, *node.comparators], []
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            found.append(self._compare(left, _OPERATORS[type(operator)], right))
        return found[0] if len(found) == 1 else Combination("and", tuple(found))

    def _compare(self, left: ast.expr, operator: Any, right: ast.expr) -> Condition:
        if operator in ("in", "not in"):
            condition = self._find_in(left, right)
            return Negation(condition) if operator == "not in" else condition
        if self._is_column(right) and not self._is_column(left):
            left, operator, right = right, _MIRRORED[operator], left
        if not self._is_column(left):
            raise self._refusal(left, "is compared, but names no column")
        if self._is_column(right):
            raise self._refusal(right, "is a column; compare columns with values alone")
        column, value = self._column(left), self._value(right)
        if value is not None:
            return Comparison(column, operator, value)
        if operator not in ("==", "!="):
            raise self._refusal(right, f"cannot be compared by {operator}")
        return Missing(column) if operator == "==" else Negation(Missing(column))

    def _find_in(self, left: ast.expr, right: ast.expr) -> Condition:
        if not self._is_column(left):
            raise self._refusal(left, "stands before `in`, but names no column")
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._refusal(right, "stands behind `in`, but is no list such as [1, 2]")
        column, values = self._column(left), [self._value(each) for each in right.elts]
        present = Membership(column, tuple(each for each in values if each is not None))
        if len(present.values) == len(values):
            return present
        return Combination("or", (Missing(column), present)) if present.values else Missing(column)

    def _is_column(self, node: ast.expr) -> bool:
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "column"
        return isinstance(node, ast.Name) or named

    def _column(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            # Python's parser normalizes names, µ among them.
            like = (each for each in self.columns if unicodedata.normalize("NFKC", each) == node.id)
            name = node.id if node.id in self.columns else next(like, node.id)
        else:
            given = node.args if isinstance(node, ast.Call) and not node.keywords else []
            if len(given) != 1 or not isinstance(given[0], ast.Constant) or not isinstance(given[0].value, str):
                raise self._refusal(node, 'is no column such as column("unit price")')
            name = given[0].value
        if name not in self.columns:
            names = _explain_names(self.columns)
            raise ValueError(f"`filter`: there is no column {name!r:.80}. {_nearest(name, self.columns)}{names}")
        return name

    def _value(self, node: ast.expr) -> Value | None:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, node = -1 if isinstance(node.op, ast.USub) else 1, node.operand
            if not isinstance(node, ast.Constant) or isinstance(node.value, bool | str):
                raise self._refusal(node, "has a sign, but is no number")
        value = node.value if isinstance(node, ast.Constant) else node
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int) and -(2**63) <= sign * value < 2**64:
            return sign * value
        if isinstance(value, float):
            return sign * value
        if isinstance(value, int):
            raise self._refusal(node, "does not fit into 64 bits")
        raise self._refusal(node, "is no value: write a number, a text in quotes, True, False or None")

    def _refusal(self, node: ast.expr, what: str) -> ValueError:
        part = ast.get_source_segment(self.text, node) or self.text
        names = _explain_names(self.columns)
        return ValueError(f"`filter`: {_shorten(part)} {what}. Write it like {_EXAMPLE}.{names}")


def _nearest(name: str, columns: Sequence[str]) -> str:
    if name in ("null", "true", "false", "none"):
        return "Write None, True and False."
    return suggest(name, list(columns)) if columns else "The documents have no metadata."


def _explain_names(columns: Sequence[str]) -> str:
    """Say how columns are written whose names are none of Python; empty if there are none."""
    names = [name for name in columns if not name.isidentifier() or keyword.iskeyword(name)]
    return f" A column such as {names[0]!r:.80} is written column({json.dumps(names[0][:80])})." if names else ""


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return ascii(line[:80] + ("..." if len(line) > 80 else ""))
