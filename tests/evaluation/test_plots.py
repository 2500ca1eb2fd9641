from dataclasses import replace

import pytest

from csr_hf.evaluation import plots
from csr_hf.evaluation.plots import plot_retention, plot_task_types
from csr_hf.evaluation.results import Results, Row


def drawn(figure):
    """The lines of each panel: label -> points."""
    found = []
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        lines = {}
        for handle, label in zip(handles, labels, strict=True):
            line = handle[0] if hasattr(handle, "has_yerr") else handle
            lines[label] = [(float(x), round(float(y), 9)) for x, y in line.get_xydata()]
        found.append(lines)
    return found


@pytest.fixture
def figures(monkeypatch):
    """Figures that are saved meanwhile."""
    saved, save = [], plots.save_figure

    def keep(figure, path):
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return saved


def test_plot_is_a_png_and_replaces_an_older_one(results, tmp_path):
    path = tmp_path / "retention.png"
    path.write_text("old")
    plot_retention(results, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(tmp_path.iterdir()) == [path]


def test_one_line_is_one_method_with_the_dense_score_and_the_queries(results, tmp_path, figures):
    rows = [replace(row, n_queries=1234, n_documents=5000) for row in results.rows]
    rows = [replace(row, retention_interval=(row.retention - 0.05, row.retention + 0.02)) for row in rows]
    plot_retention(Results(rows, results.details), tmp_path / "plot.png")
    (lines,) = drawn(figures[0])
    assert lines["CSR"] == [(32, 0.85), (64, 0.95)]
    assert lines["dense float32, 1,536 bytes: nDCG@10 0.800"] == [(0, 1), (1, 1)]
    axes = figures[0].axes[0]
    assert axes.get_title() == "pairs\n1,234 queries"
    assert axes.get_legend().get_title().get_text() == "bars: 95 % confidence"
    (bars,) = [each for each in axes.containers[0][2]]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx([0.80, 0.87]),
        pytest.approx([0.90, 0.97]),
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64"]


def test_axis_of_a_share_has_no_negative_part(tmp_path, figures):
    rows = [Row("t", "nDCG@10", name, k, 8, kept, kept) for name, k, kept in (("dense", None, 1.0), ("CSR", 2, 0.0))]
    plot_retention(Results(rows), tmp_path / "plot.png")
    assert figures[0].axes[0].get_ylim()[0] == 0


def test_plot_without_rows_says_what_there_is(results, tmp_path):
    with pytest.raises(ValueError, match=r"`metric` \('MRR'\).*'nDCG@10', 'recall'"):
        plot_retention(results, tmp_path / "plot.png", "MRR")
    assert list(tmp_path.iterdir()) == []


def test_types_of_tasks_have_a_panel_each_and_means_their_intervals(tmp_path, figures):
    rows = []
    for task, kept, half in (("A", 0.9, 0.03), ("B", 0.7, 0.04), ("C", 0.5, 0.1)):
        unit = "pairs" if task == "C" else "queries"
        rows.append(Row(task, "m", "dense", None, 48, 0.5, 1.0, 100, unit))
        interval = {"interval": (0.3, 0.5), "retention_interval": (kept - half, kept + half)}
        rows.append(Row(task, "m", "CSR", 4, 16, 0.4, kept, 100, unit, **interval))
    # A method that one task of the type lacks has no mean.
    rows.append(Row("A", "m", "int8", None, 12, 0.5, 0.99, 100))
    types = {"A": "Retrieval", "B": "Retrieval", "C": "STS"}
    plot_task_types(Results(rows, {"task_types": types}), tmp_path / "plot.png")
    retrieval, similarity = drawn(figures[0])
    assert retrieval.keys() == {"CSR", "dense float32"}
    assert retrieval["CSR"] == [(16, 0.8)]
    assert similarity["CSR"] == [(16, 0.5)]
    (bars,) = figures[0].axes[0].containers[0][2]
    # The mean of two independent figures: the root of 0.03 and 0.04 squared, by two.
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.775, 0.825])
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["Retrieval: A, B\n100 + 100 queries", "STS: C\n100 pairs"]
