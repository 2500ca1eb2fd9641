"""The tables of recipes/search.md are those of the results files."""

import json
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
CHOSEN = {
    "bench_search_1m": {
        "csr_hf": [
            (300, 64), (300, 256), (300, None), (1000, 64), (1000, 128), (1000, 512), (1000, None)
        ],
        "faiss HNSW": [32, 64, 128, 256],
        "faiss binary + int8": [100, 300, 1000],
        "faiss flat": [None],
        "scipy CSR": [None],
    },
    "bench_search_100k": {
        "csr_hf": [(300, 32), (300, 64), (300, 128), (300, None)],
        "faiss HNSW": [16, 32, 64],
        "faiss IVF-PQ": [(100, 16), (100, 64), (100, 256)],
        "Seismic + int8": [8, 16],
        "faiss binary + int8": [100, 300],
        "faiss flat": [None],
        "scipy CSR": [None],
        "sentence-transformers": [None],
    },
}  # fmt: skip
SETTINGS = {
    "csr_hf": lambda one: (one["candidates"], one["nprobe"]),
    "faiss HNSW": lambda one: one["ef"],
    "faiss IVF-PQ": lambda one: (one["candidates"], one["nprobe"]),
    "Seismic + int8": lambda one: one["cut"],
    "faiss binary + int8": lambda one: one["candidates"],
}


def read(name):
    return json.loads((RECIPES / "results" / name / "search.json").read_text(encoding="utf-8"))


def lines(name):
    found = ["| | setting | batch, ms a query | alone, p50 ms | p99 | recall@10 | bytes | build s |"]
    found.append("|---|---|---:|---:|---:|---:|---:|---:|")
    results = read(name)["results"]
    for contestant, wanted in CHOSEN[name].items():
        key = SETTINGS.get(contestant, lambda one: None)
        of_it = [one for one in results if one["contestant"] == contestant]
        for setting in wanted:
            one = next(
                one for one in of_it if one["setting"].get("candidates") != 0 and key(one["setting"]) == setting
            )
            label = (
                one["label"].replace("query_k 64, ", "").replace("query_k 64", "").replace("nprobe None", "all blocks")
            )
            figures = [f"{one['batch_ms_median']:.3f}", f"{one['single_ms_p50']:.2f}", f"{one['single_ms_p99']:.2f}"]
            figures += [f"{one['recall']:.3f}", f"{one['bytes_per_vector']:,.0f}", f"{one['build_seconds']:,.1f}"]
            found.append(f"| {contestant} | {label} | {' | '.join(figures)} |")
    return found


def times(name, faster, slower, field="batch_ms_median"):
    """How many times longer a query takes at one setting than at another, each (contestant, key)."""
    results = read(name)["results"]

    def of(which):
        contestant, setting = which
        key = SETTINGS.get(contestant, lambda one: None)
        (found,) = [
            one[field]
            for one in results
            if one["contestant"] == contestant
            and one["setting"].get("candidates") != 0
            and key(one["setting"]) == setting
        ]
        return found

    return of(slower) / of(faster)


def test_tables_are_those_of_the_results_files():
    page = (RECIPES / "search.md").read_text(encoding="utf-8")
    for name in CHOSEN:
        assert "\n".join(lines(name)) in page
        assert read(name)["details"]["command"] in page


def test_ratios_of_the_readme_are_those_of_the_results_file():
    readme = " ".join((RECIPES.parent / "README.md").read_text(encoding="utf-8").split())
    ours, flat, graph = ("csr_hf", (1000, 512)), ("faiss flat", None), ("faiss HNSW", 128)
    name = "bench_search_1m"
    batch, alone = times(name, ours, flat), times(name, ours, flat, "single_ms_p50")
    assert f"{batch:.1f} times as fast as faiss flat in batches and {alone:.0f} times for a single query" in readme
    behind = times(name, graph, ours), times(name, graph, ours, "single_ms_p50")
    assert f"faiss HNSW is {behind[0]:.1f} and {behind[1]:.1f} times as fast as that" in readme
