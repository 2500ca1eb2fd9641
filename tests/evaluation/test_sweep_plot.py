import pytest

from csr_hf.evaluation import sweep_plot
from csr_hf.evaluation.results import Results, Row
from csr_hf.evaluation.sweep_plot import find_varied, name_settings, plot_sweep, shorten_names, sweep_points
from tests.evaluation.test_plots import drawn, written


def make_sweep(*combinations):
    """A sweep whose codes alone score k / 100, and decoded ones a tenth more."""
    task, runs = "faq, 50 held-out pairs", []
    rows = [Row(task, "nDCG@10", "dense", None, 48, 0.9, 1.0, n_queries=50)]
    for number, given in enumerate(combinations):
        settings = {"hidden_dim": 32, "k": 4, "max_steps": 10, **given}
        runs.append({**settings, "metric": "nDCG@10", "seconds": 5.0 + number, "dead_fraction": settings["k"] / 50})
        for method, more in (("CSR", 0.0), ("CSR, decoded", 0.1)):
            score, name = settings["k"] / 100 + more, f"{method}, {name_settings(settings)}"
            found = {"n_queries": 50, "interval": (score - 0.01, score + 0.02)}
            rows.append(Row(task, "nDCG@10", name, settings["k"], 20, score, score / 0.9, **found))
    return Results(rows, {"runs": runs})


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """What a sweep is drawn as: the lines of each panel, and the figure."""
    saved = []
    monkeypatch.setattr(sweep_plot, "save_figure", lambda figure, path: saved.append(figure))

    def draw(results):
        plot_sweep(results, tmp_path / "sweep.png")
        saved[-1].draw_without_rendering()
        return drawn(saved[-1]), saved[-1]

    return draw


def test_one_line_is_one_method_at_one_preset(panels):
    presets = {"csr": 3, "csrv2": 24, "csr_hf": 12}
    results = make_sweep(
        *({"k": k, "max_steps": steps, "preset": name} for k in (2, 8) for name, steps in presets.items())
    )
    (scores, dead), figure = panels(results)
    wanted = {f"{method}, {preset}" for method in ("CSR", "CSR, decoded") for preset in presets}
    assert scores.keys() == {*wanted, "dense float32, 48 bytes"}
    assert scores["CSR, decoded, csrv2"] == [(2, 0.12), (8, 0.18)]
    assert scores["dense float32, 48 bytes"] == [(0, 0.9), (1, 0.9)]
    assert dead.keys() == set(presets)
    assert dead["csr"] == [(2, 0.04), (8, 0.16)]
    score_axes, dead_axes = figure.axes
    assert score_axes.get_title() == "faq, 50 held-out pairs\n50 queries"
    assert (score_axes.get_xlabel(), score_axes.get_ylabel()) == ("k", "nDCG@10")
    (bars,) = score_axes.containers[0][2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.01, 0.04])
    assert written(score_axes)["bars: 95 % confidence"] == 1
    assert {name: written(score_axes)[name] for name in wanted} == dict.fromkeys(wanted, 2)
    assert written(dead_axes) == dict.fromkeys(presets, 2)
    assert dead_axes.get_ylim()[0] == 0
    assert dead_axes.get_ylabel() == "share of dead latents"


def test_sizes_and_training_time_have_panels_of_their_own(panels):
    results = make_sweep(*({"hidden_dim": size, "max_steps": steps} for size in (32, 64) for steps in (10, 20)))
    (by_size, by_time, dead), figure = panels(results)
    assert by_size["CSR, 10 steps"] == [(32, 0.04), (64, 0.04)]
    assert by_time["CSR, hidden_dim 64"] == [(7, 0.04), (8, 0.04)]
    assert dead.keys() == {"10 steps", "20 steps"}
    assert [axes.get_xlabel() for axes in figure.axes] == ["hidden_dim", "seconds of training", "hidden_dim"]


def test_variants_stand_side_by_side(panels):
    (scores,), figure = panels(make_sweep({"training.balance": 0}, {"training.balance": 2, "model.init": "data"}))
    assert scores.keys() == {"CSR", "CSR, decoded", "dense float32, 48 bytes"}
    assert scores["CSR, decoded"] == [(0, 0.14), (1, 0.14)]
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["balance 0", "balance 2, init data"]


def test_a_single_combination_is_drawn(panels):
    (scores,), _ = panels(make_sweep({}))
    assert scores["CSR"] == [(0, 0.04)]


def test_names_say_what_differs_and_nothing_else():
    results = make_sweep({"k": 2}, {"k": 4})
    assert find_varied(sweep_points(results)) == ["k"]
    assert {row.method for row in shorten_names(results).rows} == {"dense", "CSR", "CSR, decoded"}
    presets = make_sweep({"preset": "csr", "max_steps": 5}, {"preset": "csr_hf", "max_steps": 9})
    assert {row.method for row in shorten_names(presets).rows} == {
        "dense", "CSR, csr", "CSR, decoded, csr", "CSR, csr_hf", "CSR, decoded, csr_hf"
    }  # fmt: skip
