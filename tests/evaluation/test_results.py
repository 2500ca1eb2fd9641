import json

import pytest

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
