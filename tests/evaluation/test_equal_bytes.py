import io

import numpy as np
import pytest
from rich.console import Console

from csr_hf.evaluation.equal_bytes import Kept, make_budget_table
from csr_hf.evaluation.results import Results, Row


def row(method, size, retention, k=None, width=0.0, task="a"):
    interval = (retention - width, retention + width) if width else None
    return Row(task, "nDCG@10", method, k, size, retention / 2, retention, retention_interval=interval)


ROWS = [
    row("dense", 1536, 1.0),
    row("CSR, packed", 15, 0.84, k=8, width=0.02),
    row("CSR, packed", 46, 0.94, k=32, width=0.02),
    row("PQ", 16, 0.80, width=0.01),
    row("PQ", 48, 0.97, width=0.02),
    row("binary", 48, 0.955, width=0.01),
]


def test_each_method_stands_with_its_largest_setting_within_each_budget():
    table = make_budget_table(ROWS, [48, 16, 64, 16])
    assert table.budgets == [16, 48, 64]
    sizes = {method: [kept and kept.size for kept in found] for method, found in table.lines.items()}
    assert sizes == {"CSR, packed": [15, 46, 46], "PQ": [16, 48, 48], "binary": [None, 48, 48]}
    assert table.lines["CSR, packed"][0] == Kept(15, 0.84, pytest.approx(0.02))


def test_cells_show_fewer_bytes_once_and_mark_the_best():
    header, body = make_budget_table(ROWS, [16, 48, 64]).to_cells(lambda figure: f"*{figure}*")
    assert header == ["method", "16 bytes", "48 bytes", "64 bytes"]
    assert body == [
        ["CSR, packed", "*0.840* (15)", "0.940 (46)", ""],
        ["PQ", "0.800", "*0.970*", ""],
        ["binary", "", "0.955", ""],
    ]


def test_rivals_are_named_where_they_are_ahead_by_more_than_the_half_width():
    # 0.97 - 0.94 is more than 0.02, 0.955 - 0.94 is not.
    said = make_budget_table(ROWS, [16, 48, 64]).describe_rivals()
    assert said == "Ahead of CSR by more than half the width of the interval: PQ within 48 and 64 bytes."
    assert make_budget_table(ROWS, [16]).describe_rivals().startswith("At no budget is a rival ahead")
    assert make_budget_table(ROWS[3:], [16, 48]).describe_rivals() == ""


def test_the_best_of_several_kinds_of_csr_counts():
    better = row("CSR + residual", 48, 0.99, k=8)
    assert "At no budget" in make_budget_table([*ROWS, better], [16, 48]).describe_rivals()


def test_tasks_are_averaged_and_their_intervals_are_independent():
    other = [row("CSR, packed", 15, 0.60, k=8, width=0.04, task="b"), row("PQ", 16, 1.0, width=0.03, task="b")]
    table = make_budget_table([*ROWS, *other], [16, 48])
    (kept, _), (rival, _) = table.lines["CSR, packed"], table.lines["PQ"]
    assert kept == pytest.approx((15, 0.72, np.hypot(0.02, 0.04) / 2))
    assert rival == pytest.approx((16, 0.90, np.hypot(0.01, 0.03) / 2))
    # Not measured on both tasks.
    assert "binary" not in table.lines


def test_results_at_budgets_begin_with_their_table():
    results = Results(list(ROWS), {"budgets": [16, 48]})
    text = results.to_markdown()
    assert text.startswith(
        "### At equal bytes, share of the dense score (nDCG@10, a)\n\n| method | 16 bytes | 48 bytes |"
    )
    assert "| CSR, packed | **0.840** (15) | 0.940 (46) |" in text
    assert "Ahead of CSR by more than half the width of the interval: PQ within 48 bytes." in text
    first, second = results.to_tables()
    assert first.title == "At equal bytes, share of the dense score (nDCG@10, a)"
    assert (first.row_count, len(first.columns), second.title) == (3, 3, "a")
    assert not Results(list(ROWS)).to_markdown().startswith("### At")


def test_figures_that_look_alike_are_marked_alike():
    alike = [row("CSR, packed", 48, 0.9812, k=32), row("binary", 48, 0.9813), row("PQ", 48, 0.98)]
    _, body = make_budget_table(alike, [48]).to_cells(lambda figure: f"*{figure}*")
    assert body == [["CSR, packed", "*0.981*"], ["binary", "*0.981*"], ["PQ", "0.980"]]


def test_tables_of_a_terminal_hold_no_markup():
    table, *_ = Results(list(ROWS), {"budgets": [16, 48]}).to_tables()
    console = Console(markup=False, file=io.StringIO(), width=100)
    console.print(table)
    said = console.file.getvalue()
    assert "0.840 (15)" in said and "[bold]" not in said


def test_codes_alone_are_told_from_those_with_something_beside_them():
    alone = [
        name for name in ("CSR", "CSR, decoded", "CSR + int8", "CSR + residual", "PQ") if row(name, 8, 1).is_code_alone
    ]
    assert alone == ["CSR", "CSR, decoded"]
