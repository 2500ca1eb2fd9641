import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from csr_hf.cli.output import print_tables
from csr_hf.evaluation.results import Results, Row


def test_round_trip(results, tmp_path):
    results.save(tmp_path)
    assert Results.load(tmp_path) == results
    assert Results.load(tmp_path / "results.json") == results
    stored = json.loads((tmp_path / "results.json").read_text())["rows"][2]
    assert set(stored) == {"task", "metric", "method", "k", "bytes_per_vector", "score", "retention"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]


def test_markdown_has_a_line_a_method_and_k_with_every_metric(results):
    lines = results.to_markdown().splitlines()
    assert "| method | k | bytes | nDCG@10 | retention | recall |" in lines
    assert "| CSR | 16 | 64 | 0.7600 | 0.950 | 0.5000 |" in lines
    assert "| dense |  | 1536 | 0.8000 | 1.000 | 1.0000 |" in lines
    assert any("csr-hf run x.yaml" in line for line in lines)


def test_several_tasks_are_summed_up(results):
    other = [Row("sts", "rho", "dense", None, 1536, 0.5, 1.0), Row("sts", "rho", "CSR", 8, 32, 0.25, 0.5)]
    lines = Results([*results.rows, *other]).to_markdown().splitlines()
    assert lines[2:6] == [
        "| method | k | bytes | pairs (nDCG@10) | sts (rho) | mean |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| dense |  | 1536 | 0.8000 | 0.5000 | 1.000 |",
        "| CSR | 8 | 32 | 0.850 | 0.500 | 0.675 |",
    ]
    assert "| CSR | 16 | 64 | 0.950 |  |  |" in lines
    assert not results.to_markdown().startswith("### All")


def test_terminal_tables_show_the_same_figures(results):
    (table,) = results.to_tables()
    assert [column.header for column in table.columns][:3] == ["method", "k", "bytes"]
    assert list(table.columns[3].cells) == ["0.8000", "0.6800", "0.7600"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": "other", "rows": []}', '{"rows": []}'])
def test_other_files_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="holds no results"):
        Results.load(tmp_path)


def test_tables_say_what_embeddings_are_compared_by_unless_it_is_cosine(results):
    for similarity, said in (("dot", "by dot product"), ("euclidean", "A search by CSR compares by cosine")):
        results.details["similarity"] = similarity
        assert said in results.to_markdown()
        assert all(said in str(table.caption) for table in results.to_tables())
    # What a file says may be anything.
    for similarity in ("cosine", None, ["dot"]):
        results.details["similarity"] = similarity
        assert "compares" not in results.to_markdown()
        assert all(table.caption is None for table in results.to_tables())


SURE = {"n_queries": 250, "n_documents": 1_000, "interval": (0.7, 0.8), "retention_interval": (0.93, 0.97)}


def with_intervals(**changes):
    dense = Row("pairs", "nDCG@10", "dense", None, 1536, 0.8, 1.0, 250, "queries", 1_000, (0.75, 0.85), (1.0, 1.0))
    rows = [
        dense,
        Row("pairs", "nDCG@10", "CSR", 8, 36, 0.76, 0.95, **{**SURE, **changes}),
        Row("pairs", "nDCG@10", "PCA", None, 36, 0.75, 0.9375, **{**SURE, **changes}),
        Row("pairs", "nDCG@10", "binary", None, 48, 0.6, 0.75, **{**SURE, **changes}),
    ]
    return Results(rows)


def test_intervals_and_numbers_of_queries_come_back(tmp_path):
    results = with_intervals()
    results.save(tmp_path)
    assert Results.load(tmp_path) == results
    (tmp_path / "results.json").write_text((tmp_path / "results.json").read_text().replace("0.93,", ""))
    with pytest.raises(ValueError, match="holds no results"):
        Results.load(tmp_path)


def test_tables_show_intervals_and_what_they_stand_on():
    text = with_intervals().to_markdown()
    assert "| dense |  | 1536 | 0.800 ± 0.050 | 1.000 |" in text
    assert "| CSR | 8 | 36 | 0.760 ± 0.050 | 0.950 ± 0.020 |" in text
    assert "On 250 queries and 1,000 documents. ±: 95 % confidence, by the bootstrap over queries (1,000 resa" in text
    (table,) = with_intervals().to_tables()
    assert list(table.columns[4].cells)[1] == "0.950 ± 0.020"
    assert "On 250 queries" in str(table.caption)


def test_tables_of_many_metrics_fit_a_terminal():
    rows = [dataclasses.replace(row, metric=f"R@{cutoff}") for cutoff in (1, 5, 10) for row in with_intervals().rows]
    (table,) = Results(rows).to_tables()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    assert "0.760" in shown
    assert "…" not in shown
    assert "At most ± 0.050: 95 % confidence" in " ".join(shown.split())


def test_methods_of_equal_bytes_that_the_queries_do_not_tell_apart_are_named():
    assert with_intervals().doubts("pairs") == ["Not told apart by these queries: CSR and PCA (36 bytes)."]
    assert "CSR and PCA (36 bytes)" in with_intervals().to_markdown()
    assert with_intervals(retention_interval=(0.945, 0.955)).doubts("pairs") == []


def test_few_queries_are_named_as_such():
    results = with_intervals(retention_interval=(0.945, 0.955))
    results.rows = [dataclasses.replace(row, n_queries=60) for row in results.rows]
    assert results.doubts("pairs") == ["60 queries are few: some hundreds tell methods apart."]
    results.rows = [dataclasses.replace(row, n_queries=None) for row in results.rows]
    assert results.doubts("pairs") == []


def test_a_table_of_long_names_shows_every_figure_at_80_columns(capsys):
    rows = [Row("t", "nDCG@10", "dense", None, 1536, 0.8, 1.0)]
    for k in (4, 8, 16):
        name = f"CSR, decoded, distillation 0, gamma 0.1, contrast pairs, init data, batch {k} of a long name"
        rows.append(Row("t", "nDCG@10", name, k, 4 * k, 0.5 + k / 100, 0.6 + k / 100))
        rows.append(Row("t", "dense top 10", name, k, 4 * k, 0.5 + k / 50, 0.6 + k / 50))
    print_tables(Results(rows))
    said = capsys.readouterr().out
    assert said.isascii()
    assert all(len(line) <= 80 for line in said.splitlines())
    lines = [re.split(r"\s*\|\s*", line)[1:-1] for line in said.splitlines() if line.startswith("| ")]
    assert [line[1] for line in lines if line[1].isdigit()] == ["4", "8", "16"]
    assert {"0.5400", "0.5800", "0.6600"} <= {cell for line in lines for cell in line}
    words = " ".join(line[0] for line in lines)
    assert "of a long name" in words and "…" not in said
