import pytest

from csr_hf.evaluation.plots import plot_retention


def test_plot_is_a_png_and_replaces_an_older_one(results, tmp_path):
    path = tmp_path / "retention.png"
    path.write_text("old")
    plot_retention(results, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(tmp_path.iterdir()) == [path]


def test_plot_without_rows_says_what_there_is(results, tmp_path):
    with pytest.raises(ValueError, match=r"`metric` \('MRR'\).*'nDCG@10', 'recall'"):
        plot_retention(results, tmp_path / "plot.png", "MRR")
    assert list(tmp_path.iterdir()) == []
