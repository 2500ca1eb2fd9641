from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from csr_hf.evaluation import plots
from csr_hf.evaluation.line_labels import spread
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


def written(axes):
    """How often each text stands inside a panel."""
    return Counter(text.get_text() for text in axes.texts)


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
    assert written(axes)["CSR"] == 2
    assert written(axes)["bars: 95 % confidence"] == 1
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
    # Lines of one point are named once, and every panel has numbers on its axes.
    assert written(figures[0].axes[0])["CSR"] == 1
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()] == ["16"]
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["Retrieval: A, B\n100 + 100 queries", "STS: C\n100 pairs"]


def test_scores_that_are_no_number_have_no_place(tmp_path, figures):
    """As the correlation of scores that are all alike."""
    kept = {16: 0.8, 32: float("nan"), 64: 0.9}
    rows = [Row("t", "m", "CSR", 4, size, 0.5, share, 10) for size, share in kept.items()]
    rows.append(Row("t", "m", "PCA", None, 16, float("nan"), float("nan"), 10))
    plot_task_types(Results(rows, {"task_types": {"t": "STS"}}), tmp_path / "plot.png")
    (lines,) = drawn(figures[0])
    assert lines["CSR"] == [(16, 0.8), (64, 0.9)] and "PCA" not in lines


def test_names_stand_apart_beside_the_ends_of_their_lines(tmp_path, figures):
    rows = [Row("t", "nDCG@10", "dense", None, 1536, 0.8, 1.0, n_queries=9)]
    for number in range(12):
        for size, kept in ((16, 0.7 + number / 1000), (64, 0.9 + number / 1000)):
            rows.append(Row("t", "nDCG@10", f"method {number}", None, size, 0.8 * kept, kept, n_queries=9))
    plot_retention(Results(rows), tmp_path / "plot.png")
    (axes,) = figures[0].axes
    renderer = figures[0].canvas.get_renderer()
    panel = axes.get_window_extent(renderer)
    # Of an annotation itself, its line would count as well.
    names = [text for text in axes.texts if text.get_text().startswith("method")]
    boxes = [Text.get_window_extent(name, renderer) for name in names]
    assert len(boxes) == 24
    for number, box in enumerate(boxes):
        assert panel.x0 <= box.x0 <= box.x1 <= panel.x1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    low, high = (axes.transData.transform((size, 0.7))[0] for size in (16, 64))
    assert all(box.x1 <= low or box.x0 >= high for box in boxes)


@settings(max_examples=100, deadline=None)
@given(places=st.lists(st.floats(0, 1), max_size=20).map(sorted), apart=st.floats(0.001, 0.4))
def test_places_are_spread_in_order(places, apart):
    spread_places = spread(places, apart)
    wanted = min(apart, 1 / max(len(places), 1))
    assert (np.diff(spread_places) >= wanted - 1e-9).all()
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in spread_places)
    if len(places) < 2 or np.diff(places).min() >= wanted:
        inside = [min(max(place, wanted / 2), 1 - wanted / 2) for place in places]
        if places and inside == places:
            assert spread_places == pytest.approx(places, abs=1e-9)
