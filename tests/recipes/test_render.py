"""Pages are up to date, and the regions of a page are filled and nothing else."""

import json
import subprocess
import sys

import pytest

from tests.helpers.scripts import ROOT, load_script

script = load_script("render")
PAGE = """# A page

Before <!-- value: share -->0.5<!-- end --> after, by hand.

<!-- table: sizes -->
old
<!-- end -->

Written by hand.
"""
FILLED = """# A page

Before <!-- value: share -->0.75<!-- end --> after, by hand.

<!-- table: sizes -->

| k | bytes |
| ---: | ---: |
| 8 | 36 |

<!-- end -->

Written by hand.
"""
REGIONS = {"share": lambda: "0.75", "sizes": lambda: "| k | bytes |\n| ---: | ---: |\n| 8 | 36 |"}


def test_pages_are_up_to_date():
    """`make pages` writes them."""
    done = subprocess.run([sys.executable, "recipes/render.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_regions_are_filled_and_the_rest_stays():
    assert script.render(PAGE, REGIONS) == FILLED
    assert script.render(FILLED, REGIONS) == FILLED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: size -->\n<!-- end -->", "region 'size' is unknown. Known: share, sizes."),
        ("<!-- table: sizes -->\nold", "<!-- table: sizes --> stands alone"),
        ("a <!-- end -->", "<!-- end --> stands alone"),
        ("<!-- table: sizes -->\n<!-- value: share -->\n<!-- end -->", "<!-- value: share --> stands alone"),
        ("<!-- value: share -->1<!-- end --> of all", "value 'share' begins a line"),
    ],
)
def test_mistakes_of_a_page_are_named(text, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        script.render(text, REGIONS)


def test_indented_blocks_stay_indented():
    filled = script.render("<!-- table: run -->\n<!-- end -->", {"run": lambda: "    make test"})
    assert filled == "<!-- table: run -->\n\n    make test\n\n<!-- end -->"


def test_check_names_stale_pages_and_writes_nothing(tmp_path):
    stale, fresh = tmp_path / "stale.md", tmp_path / "fresh.md"
    stale.write_text(PAGE)
    fresh.write_text(FILLED)
    assert script.render_pages([stale, fresh], REGIONS, check=True) == [stale]
    assert stale.read_text() == PAGE
    assert script.render_pages([stale, fresh], REGIONS) == [stale]
    assert stale.read_text() == FILLED
    assert script.render_pages([stale, fresh], REGIONS, check=True) == []


def test_error_names_the_page(tmp_path):
    (tmp_path / "page.md").write_text("<!-- table: size -->\n<!-- end -->")
    with pytest.raises(ValueError, match=r"page\.md: region 'size' is unknown"):
        script.render_pages([tmp_path / "page.md"], REGIONS)


@pytest.fixture
def regions(monkeypatch):
    """The package of the regions, as `recipes/render.py` imports it."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    import regions
    from regions import markdown, speed

    return regions, markdown, speed


def test_every_region_is_on_a_page(regions):
    """A region that no page has is code that nobody needs."""
    text = "".join(path.read_text(encoding="utf-8") for path in script.pages())
    assert [name for name in regions[0].REGIONS if f": {name} -->" not in text] == []


def test_long_commands_are_broken_before_flags(regions):
    line = "csr-hf evaluate runs/a --tasks SciFact --k 8,16 --baselines int8"
    assert regions[1].command(line, 40) == (
        "    csr-hf evaluate runs/a --tasks SciFact \\\n        --k 8,16 --baselines int8"
    )


def measured(system, recall, batch, single, **costs):
    return {
        "system": system, "label": "nprobe 8", "recall": recall, "batch_ms_median": batch, "single_ms_p50": single,
        "single_ms_p99": 2 * single, "bytes_per_document": 200.0, "build_seconds": 100.0, "single_queries": 5, **costs,
    }  # fmt: skip


def fastest(ms, times):
    found = {"setting": "nprobe 8", "recall": 0.96, "ms": ms, "times_csr_hf": times}
    return {**found, "interpolated_times_csr_hf": 0.9 * times}


@pytest.fixture
def benchmark(regions, tmp_path, monkeypatch):
    """The regions of speed, reading a made-up results file."""
    data = {"documents": 800, "queries": 10, "dim": 4}
    details = {"data": data, "head": {"hidden_dim": 16, "k": 2}, "threads": 2, "turns": 3, "single": 5}
    details |= {"machine": "a machine", "versions": {"faiss-cpu": "1.2"}, "command": "python search.py"}
    results = [
        measured("csr_hf", 0.96, 0.25, 1.5),
        measured("faiss flat", 1.0, 4.0, 90.0, single_queries=2),
        measured("faiss HNSW32", 0.97, 0.5, 0.75),
    ]
    matched = {
        "csr_hf": {"batch": fastest(0.25, 1.0), "single": fastest(1.5, 1.0)},
        "faiss flat": {"batch": fastest(4.0, 16.0), "single": fastest(90.0, 60.0)},
        "faiss HNSW32": {"batch": fastest(0.5, 2.0), "single": fastest(0.75, 0.5)},
        "csr_hf, codes alone": None,
    }
    results.append(measured("csr_hf, codes alone", 0.5, 1.0, 1.0))
    one = {"recall": 0.96, "batch_ms": 0.25, "batch_times": 1.0, "single_ms": 1.5, "single_times": 1.0}
    content = {"details": details, "skipped": {}, "results": results, "filters": {}}
    content["filters"] = {"csr_hf": [{"share": 1.0, **one}, {"share": 0.01, **one, "batch_times": 1.234}]}
    content["matched_recall"] = {"0.9": {"csr_hf": matched["csr_hf"]}, "0.95": matched, "0.98": {"csr_hf": None}}
    folder = tmp_path / "results" / "bench_search"
    folder.mkdir(parents=True)
    (folder / "descriptions.json").write_text(json.dumps(content))
    monkeypatch.setattr(regions[1], "RECIPES", tmp_path)
    return regions[2].REGIONS


def test_speed_is_compared_at_the_same_recall(benchmark):
    assert benchmark["speed"]().splitlines()[2:] == [
        "| csr_hf | 0.250 | 1.500 | 200 | 100 |",
        "| faiss flat | 4.000 | 90.000 | 200 | 100 |",
        "| faiss HNSW32 | 0.500 | 0.750 | 200 | 100 |",
    ]
    assert "| csr_hf, codes alone | not reached |" in benchmark["bench-at-95"]()
    # Interpolated, nearest first; nobody else was measured at the other recalls.
    assert benchmark["speed-summary"]().splitlines() == [
        "- At 0.95 in batches: faiss HNSW32 1.8, faiss flat 14 times the time of csr_hf.",
        "- At 0.95 one by one: faiss HNSW32 0.45, faiss flat 54 times the time of csr_hf.",
    ]
    assert benchmark["bench-filters"]().splitlines()[-1] == "| csr_hf | 1% | 0.960 | 0.250 | 1.23 | 1.500 | 1.00 |"
    # 200 bytes times 10 million, 100 s for 800.
    assert "| 10,000,000 | 2 GB | 347.2 h |" in benchmark["scale"]()
    conditions = benchmark["bench-conditions"]()
    assert "800 documents and 10 queries" in conditions
    assert "5 queries one by one in each (faiss flat 2)." in conditions


def test_what_has_no_results_file_is_not_measured_yet(benchmark):
    assert benchmark["bench-at-95-transformer"]() == "Not measured yet."
