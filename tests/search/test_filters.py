"""Conditions on metadata: read by Python's parser, never run, and true of the documents that Python says."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from csr_hf.search.documents import append_documents, find_documents, make_documents, read_rows
from csr_hf.search.filters import columns_of, parse_filter

ROWS = [
    {"lang": "en", "year": 2020, "price": 1.5, "ok": True, "unit price": 3},
    {"lang": "de", "year": 2021, "price": None, "ok": False, "unit price": 4},
    {"lang": None, "year": None, "price": 2.0, "ok": None, "unit price": 5},
    {"lang": "en", "year": 2022, "price": 9.0, "ok": True, "unit price": 6},
]
TABLE = make_documents(["a", "b", "c", "d"], ROWS, 4)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('lang == "en" and year > 2020', [3]),
        ('lang == "en" or year == 2021', [0, 1, 3]),
        ('lang != "en"', [1]),
        ('not lang == "en"', [1]),
        ("2020 < year <= 2022", [1, 3]),
        ("2021 >= year", [0, 1]),
        ("year in [2020, 2022.0, 7]", [0, 3]),
        ("year in (2020.5, 2021)", [1]),
        ("year in {1, 2}", []),
        ("year not in [2020]", [1, 3]),
        ("not (year in [2020])", [1, 3]),
        ("year in []", []),
        ("year not in []", [0, 1, 3]),
        ("year in [2020, None]", [0, 2]),
        ("year == None", [2]),
        ("year is not None", [0, 1, 3]),
        ("ok", [0, 3]),
        ("not ok", [1]),
        ("not not ok", [0, 3]),
        ("ok == False", [1]),
        ("price >= 2", [2, 3]),
        ("price > -1e300", [0, 2, 3]),
        ("price < 1e999", [0, 2, 3]),
        ("year < 9223372036854775807", [0, 1, 3]),
        ("year > +2020 and not (price == 9)", []),
        ('column("unit price") > 4', [2, 3]),
        ('  text == "b"\n', [1]),
        ("ok or " * 3_000 + "ok", [0, 3]),
    ],
)
def test_conditions_find_what_they_say(condition, expected):
    assert np.flatnonzero(find_documents(condition, TABLE)).tolist() == expected


NAMES = {"lang": ["en", "de", "x"], "year": [2019, 2020, 2021], "price": [0.5, 1.5, 2]}


@st.composite
def conditions(draw, depth=0):
    """A condition as text, and as a function of a row that tells True, False, or None where a value is missing."""
    kind = draw(st.sampled_from(["compare", "in"] + ["not", "and", "or"] * (depth < 4)))
    if kind in ("compare", "in"):
        name = draw(st.sampled_from(sorted(NAMES)))
        if kind == "in":
            values = draw(st.lists(st.sampled_from(NAMES[name]), max_size=3))
            return f"{name} in {values!r}", lambda row: None if row[name] is None else row[name] in values
        sign, value = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="])), draw(st.sampled_from(NAMES[name]))
        own = {"==": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}[sign]
        lift = float if name != "lang" else str
        return (
            f"{name} {sign} {value!r}",
            lambda row: None if row[name] is None else getattr(lift(row[name]), own)(lift(value)),
        )
    left, first = draw(conditions(depth + 1))
    if kind == "not":
        return f"not ({left})", lambda row: None if first(row) is None else not first(row)
    right, second = draw(conditions(depth + 1))
    stops = kind == "or"

    def both(row):
        found = [first(row), second(row)]
        return stops if stops in found else None if None in found else not stops

    return f"({left}) {kind} ({right})", both


@given(
    conditions(),
    st.lists(st.fixed_dictionaries({name: st.sampled_from([*NAMES[name], None]) for name in NAMES}), min_size=1),
)
def test_conditions_mean_what_they_mean_in_three_valued_logic(condition, rows):
    text, meaning = condition
    types = {"lang": pa.string(), "year": pa.int64(), "price": pa.float64()}
    table = pa.table({name: pa.array([row[name] for row in rows], types[name]) for name in NAMES})
    found = find_documents(text, make_documents(None, table, len(rows)))
    assert found.tolist() == [meaning(row) is True for row in rows]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ('langg == "en"', "no column 'langg'. Did you mean `lang`?"),
        ("year == null", "is a column|no column 'null'. Write None"),
        ("null == year", "is a column"),
        ("year == '2020'", "'year' holds int64, which '2020' is not"),
        ("lang == 3", "'lang' holds texts, none of them a number. Write 3 in quotes"),
        ("lang == True", "'lang' holds large_string, which True is not"),
        ("ok == 1", "'ok' holds bool, which 1 is not"),
        ("price == True", "'price' holds double, which True is not"),
        ("year = 2020", "cannot be read: invalid syntax"),
        ("", "cannot be read"),
        ("lang == ", "cannot be read"),
        ("lang == 'a\0'", "cannot be read"),
        ("(" * 300, "cannot be read"),
        ("not " * 4_000 + "ok", "cannot be read|nested more than 50"),
        ("not " * 60 + "ok", "nested more than 50 deep"),
        ("x" * 30_000, "30,000 characters"),
        ("__import__('os').system('true')", "is no condition"),
        ("lang.upper() == 'EN'", "names no column"),
        ("lang[0] == 'e'", "names no column"),
        ("lang + 1 == 2", "names no column"),
        ("(lambda: 1)()", "is no condition"),
        ("[x for x in lang]", "is no condition"),
        ("lang == f'{year}'", "is no value"),
        ("year == 2 ** 3", "is no value"),
        ("year == -lang", "has a sign, but is no number"),
        ("year == 99999999999999999999", "does not fit into 64 bits"),
        ("price == 1j", "is no value"),
        ("lang == b'en'", "is no value"),
        ("year < None", "cannot be compared by <"),
        ("'en' in lang", "names no column"),
        ("lang in 'en'", "is no list"),
        ("lang in [year]", "is no value"),
        ("1 < 2", "names no column"),
        ("year == year", "compare columns with values"),
        ("column(lang) == 'en'", "is no column such as"),
        ("column('lang', 1) == 'en'", "is no column such as"),
        ("(ok := True)", "is no condition"),
        ("lang", "holds large_string, which True is not"),
        (3, "is a int"),
        (pc.field("nothing") > 3, "cannot be applied"),
        (pc.field("year"), "gives int64"),
        (pc.field("lang") > 3, "cannot be applied"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(condition, message):
    with pytest.raises(ValueError, match=message) as error:
        find_documents(condition, TABLE)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@given(st.text(max_size=40))
def test_no_text_does_anything_but_be_read_or_refused(text):
    try:
        assert find_documents(text, TABLE).shape == (4,)
    except ValueError as error:
        assert "\n" not in str(error)


def test_expressions_of_pyarrow_are_taken_as_they_are():
    found = find_documents((pc.field("year") > 2020) & pc.field("ok"), TABLE)
    assert found.tolist() == [False, False, False, True]
    assert columns_of(parse_filter('not (lang == "en" or year in [1]) and ok', TABLE.column_names)) == {
        "lang",
        "year",
        "ok",
    }


def test_texts_that_are_numbers_are_compared_with_numbers():
    table = make_documents(None, {"price": ["3.10", "", "12", None, "-1e3"]}, 5)
    assert find_documents("price < 10", table).tolist() == [True, False, False, False, True]
    assert find_documents("price in [12, 3.1]", table).tolist() == [True, False, True, False, False]
    assert find_documents('price == "3.10" or price == None', table).tolist() == [True, False, False, True, False]


def test_dates_are_compared_with_texts():
    table = make_documents(None, pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2021-01-01", None])}), 3)
    assert find_documents('day >= "2020-06-01"', table).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="'day' holds timestamp"):
        find_documents('day > "soon"', table)


COLUMNS = {"year": [1, 2], "lang": ["en", None]}


@pytest.mark.parametrize(
    "metadata",
    [
        COLUMNS,
        [{"year": 1, "lang": "en"}, {"year": 2}],
        pa.table(COLUMNS),
        pd.DataFrame(COLUMNS),
        pd.DataFrame(COLUMNS).astype({"lang": "category"}),
        Dataset.from_dict(COLUMNS),
        {"year": np.array([1, 2]), "lang": pa.array(["en", None]).dictionary_encode()},
    ],
)
def test_metadata_comes_in_any_form(metadata):
    table = make_documents(["a", None], metadata, 2)
    assert read_rows(table, [1, 0]) == [
        {"text": None, "year": 2, "lang": None},
        {"text": "a", "year": 1, "lang": "en"},
    ]
    assert find_documents('lang == "en" and year < 2', table).tolist() == [True, False]


@pytest.mark.parametrize(
    ("texts", "metadata", "message"),
    [
        (["a"], None, "'text' holds 1 values for 2 documents"),
        (None, {"year": [1]}, "'year' holds 1 values for 2 documents"),
        (["a", "b"], {"text": ["c", "d"]}, "has a column 'text'"),
        (None, {"year": [1, "a"]}, "'year' holds values that do not go together"),
        (None, {"year": [1, 2**70]}, "'year' holds values that do not go together"),
        (None, {"name": ["\ud800", "b"]}, "'name' holds values that do not go together"),
        (None, [1, 2], "must be a table, a mapping of columns"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(texts, metadata, message):
    with pytest.raises(ValueError, match=message) as error:
        make_documents(texts, metadata, 2)
    assert "\n" not in str(error.value)
    assert make_documents(None, None, 2) is None


def test_new_documents_have_the_columns_of_the_others():
    new = append_documents([TABLE], make_documents(["e"], {"year": [2023]}, 1), 1)
    assert new.schema == TABLE.schema
    assert read_rows(new, [0])[0] == {**dict.fromkeys(ROWS[0]), "text": "e", "year": 2023}
    assert append_documents([TABLE], None, 2).num_rows == 2
    with pytest.raises(ValueError, match=r"column 'yeer', which the index has not. Did you mean `year`\?"):
        append_documents([TABLE], make_documents(None, {"yeer": [1]}, 1), 1)
    with pytest.raises(ValueError, match="'year' holds large_string, in the index it holds int64"):
        append_documents([TABLE], make_documents(None, {"year": ["soon"]}, 1), 1)
    with pytest.raises(ValueError, match="keeps no texts or metadata"):
        append_documents([], make_documents(None, {"year": [1]}, 1), 1)
    assert append_documents([], None, 1) is None


def test_integers_are_compared_exactly_with_any_number():
    columns = {"n": [2**53 + 1, -(2**63), 2**63 - 1, None, 7], "u": np.arange(5, dtype=np.uint8)}
    table = make_documents(None, columns, 5)
    for condition, expected in [
        ("n > 7.5", [0, 2]),
        ("n <= 7.5", [1, 4]),
        (f"n == {2.0**53}", []),
        ("n != 7.5", [0, 1, 2, 4]),
        ("not (n == 7.5)", [0, 1, 2, 4]),
        ("n == 7.0", [4]),
        ("n < 1e300", [0, 1, 2, 4]),
        ("n > 1e999", []),
        ("n >= -1e999", [0, 1, 2, 4]),
        ("n == 1e999 or n == None", [3]),
        (f"n == {2**63}", []),
        ("u < 300", [0, 1, 2, 3, 4]),
        ("u > -1", [0, 1, 2, 3, 4]),
        ("u == 256", []),
        ("u > 2.5", [3, 4]),
    ]:
        assert np.flatnonzero(find_documents(condition, table)).tolist() == expected, condition


def decimals(*texts):
    return pa.array([None if text is None else Decimal(text) for text in texts], pa.decimal128(10, 2))


@pytest.mark.parametrize(
    ("values", "condition", "fits"),
    [
        (decimals("1.10", "2.00", None), "x > 1", [True, True, False]),
        (decimals("1.10", "2.00", None), "x == 2", [False, True, False]),
        (decimals("1.10", "2.00", None), "x <= 1.1", [True, False, False]),
        (decimals("1.10", "2.00", None), "x in [1.1, 1.123]", [True, False, False]),
        (decimals("1.10", "2.00", None), "not (x in [1.123])", [True, True, False]),
        (np.array([0.1, 2], np.float32), "x == 0.1", [True, False]),
        (np.array([0.1, 2], np.float32), "x in [0.1]", [True, False]),
        (np.array([0.7, 2], np.float32), "x >= 0.7", [True, True]),
        (np.array([0.1, 2], np.float32), "x <= 0.1", [True, False]),
        (np.array([0.5, -2], np.float16), "x > 0", [True, False]),
        (np.array([0.5, -2], np.float16), "x in [0.5, 1]", [True, False]),
        ([" 89.90", "2", "n/a", "", None, "+3e2"], "x > 50", [True, False, False, False, False, True]),
        ([" 89.90", "2", "n/a", "", None, "+3e2"], "not (x > 50)", [False, True, False, False, False, False]),
        ([" 89.90", "2", "n/a", "", None, "+3e2"], "x in [300, 2]", [False, True, False, False, False, True]),
        (["", " ", None], "x > 50", [False, False, False]),
    ],
)
def test_numbers_of_every_kind_are_compared_as_they_are_meant(values, condition, fits):
    table = make_documents(None, {"x": values}, len(values))
    assert find_documents(condition, table).tolist() == fits


def test_numbers_that_floats_do_not_tell_apart_are_compared_as_texts():
    table = make_documents(None, {"x": ["9007199254740993", "1"]}, 2)
    with pytest.raises(ValueError, match=r"are read up to 2\*\*53. Write '9007199254740993'"):
        find_documents("x == 9007199254740993", table)
    assert find_documents("x == '9007199254740993'", table).tolist() == [True, False]


@pytest.mark.parametrize("name", ["unit price", "class", "x-y"])
@pytest.mark.parametrize("condition", ["{} < 2", "{} == 2", "prise < 2"])
def test_columns_whose_names_are_none_of_python_are_explained(name, condition):
    table = make_documents(None, {name: [1, 3]}, 2)
    assert find_documents(f'column("{name}") < 2', table).tolist() == [True, False]
    with pytest.raises(ValueError, match=rf"A column such as '{name}' is written column\(\"{name}\"\)"):
        find_documents(condition.format(name), table)


def test_names_are_those_that_python_makes_of_them():
    assert find_documents("\u00b5 == 1", make_documents(None, {"\u00b5": [1, 2]}, 2)).tolist() == [True, False]
    both = make_documents(None, {"\u00b5": [1, 2], "\u03bc": [2, 1]}, 2)
    assert find_documents("\u03bc == 1", both).tolist() == [False, True]


def test_a_column_that_held_nothing_takes_what_comes(tmp_path):
    first = make_documents(None, {"x": [None, None]}, 2)
    second = append_documents([first], make_documents(None, {"x": ["hi"]}, 1), 1)
    third = append_documents([pa.concat_tables([first, second], promote_options="default")], None, 1)
    together = pa.concat_tables([first, second, third], promote_options="default")
    assert together["x"].to_pylist() == [None, None, "hi", None]
    assert find_documents("x == 'hi'", together).tolist() == [False, False, True, False]


def test_metadata_of_polars_and_of_one_text():
    polars = pytest.importorskip("polars")
    assert make_documents(None, polars.DataFrame({"x": [1, 2]}), 2)["x"].to_pylist() == [1, 2]
    with pytest.raises(ValueError, match=r"'x' is one text. Give a list, a value for each document"):
        make_documents(None, {"x": "ab"}, 2)
