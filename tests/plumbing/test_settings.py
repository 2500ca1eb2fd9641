from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from csr_hf.plumbing.settings import (
    field_docs,
    from_mapping,
    known_keys,
    parse_yaml_value,
    read_overrides,
    sections,
    settings,
    suggest,
)


@settings
class Inner:
    """Some settings."""

    rate: Annotated[float, Field(gt=0)] = 1.0
    """How fast,
    in steps."""
    mode: Literal["slow", "fast"] = "slow"
    """Which way."""


@settings
class Outer(Inner):
    """Settings with sections."""

    count: Annotated[int, Field(ge=1)] | None = None
    """How many."""
    inner: Inner = field(default_factory=Inner)
    """A section."""
    many: list[Inner] = field(default_factory=list)
    """Several sections."""
    size: int | str = 1
    """A number or a word."""
    refine: bool | Literal["pursuit"] | None = None
    """One of three."""
    weights: dict[str, float] = field(default_factory=dict)
    """By the user's own names."""

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("`count` (13) is unlucky. Take 14.")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inner(rate=-1), "`rate` (-1): should be greater than 0."),
        (lambda: Inner(mode="quick"), "`mode` ('quick'): should be 'slow' or 'fast'."),
        (lambda: Inner(mode="fsat"), "`mode` ('fsat'): should be 'slow' or 'fast'. Did you mean `fast`?"),
        (lambda: Inner(mood="slow"), "`mood` is not a setting. Did you mean `mode`?"),
        (lambda: Inner(zzz=1), "`zzz` is not a setting. Known: rate, mode."),
        (lambda: replace(Inner(), rate="much"), "`rate` ('much')"),
        (lambda: Outer(count=13), "`count` (13) is unlucky. Take 14."),
        (lambda: from_mapping(Outer, {"count": 13}), "`count` (13) is unlucky. Take 14."),
        (
            lambda: from_mapping(Outer, {"inner": {"rat": 1}}),
            "`inner.rat` is not a setting. Did you mean `inner.rate`?",
        ),
        (lambda: from_mapping(Outer, {"many": [{}, {"rate": 0}]}), "`many.1.rate` (0): should be greater than 0."),
        (lambda: from_mapping(Outer, {"many": ["a.csv"]}), "`many.0` ('a.csv') must be a section with keys: rate"),
        (
            lambda: from_mapping(Outer, {"inner": {"Rate": 1}}),
            "`inner.Rate` is not a setting. Did you mean `inner.rate`?",
        ),
        (lambda: Outer(size=[1]), "`size` ([1]): should be a valid integer; or should be a valid string."),
        (
            lambda: from_mapping(Outer, {"refine": "values"}),
            "`refine` ('values'): should be a valid boolean, unable to interpret input; or should be 'pursuit'.",
        ),
        (lambda: Outer(weights={"Half": "x", "4": "y"}), "`weights.Half` ('x'): should be a valid number, unable to"),
        (lambda: from_mapping(Outer, {"inner": 3}), "`inner` (3) must be a section with keys: rate, mode."),
    ],
)
def test_what_is_wrong_is_named_in_one_line(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_values_are_converted_as_yaml_writes_them():
    made = from_mapping(Outer, {"rate": "2e-3", "inner": {"mode": "fast"}, "many": [{"rate": 2}]})
    assert made == Outer(rate=0.002, inner=Inner(mode="fast"), many=[Inner(rate=2.0)])


def test_docstrings_below_fields_are_found_in_parents_too():
    docs = field_docs(Outer)
    assert docs["rate"] == "How fast, in steps."
    assert docs["many"] == "Several sections."
    assert list(sections(Outer)) == ["inner", "many"]
    assert known_keys(Outer, ["inner"]) == ["rate", "mode"]


def test_suggestions_name_the_nearest_or_all():
    assert suggest("cuont", ["count", "rate"]) == "Did you mean `count`?"
    assert suggest("cuont", ["count"], prefix="data") == "Did you mean `data.count`?"
    assert suggest("q", ["count", "rate"]) == "Known: count, rate."


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}", fullmatch=True),
        st.one_of(st.integers(-(10**6), 10**6), st.booleans(), st.none(), st.lists(st.integers(0, 9), max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_overrides_are_read_back(values):
    import yaml

    text = ",".join(
        f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in values.items()
    )
    assert read_overrides(text) == values


def test_what_is_no_override_is_refused():
    with pytest.raises(ValueError, match=r"'no-value' is not key=value"):
        read_overrides("training.balance=1,no-value")
    with pytest.raises(ValueError, match=r"'\{a: ' is not a YAML value"):
        parse_yaml_value("{a: ")
