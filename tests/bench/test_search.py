"""`csr-hf bench search`: a small contest through the command, and what its figures are made of."""

import importlib
import json
import re

import numpy as np
import pytest

from csr_hf.bench.contest import Contestant, PeakMemory, compete, cost_of
from csr_hf.bench.rivals import Corpus, FaissFlat, OverBudgetError, padded
from csr_hf.bench.search import RIVALS, SearchSizes, build_all, chosen_rivals, make_corpus
from csr_hf.bench.search_data import exact_neighbors, jittered, make_data
from csr_hf.bench.search_results import Measured, fastest_at, frontier, matched
from csr_hf.bench.staged_rivals import Int8Stage, scaled
from csr_hf.cli.main import main
from csr_hf.codes import project_queries
from csr_hf.evaluation.neighbors import neighbor_recall, unit_rows
from tests.conftest import make_head

SIZES = ["--documents", "2000", "--queries", "50", "--single", "3", "--repeats", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def rows():
    """Unit rows near a few of many directions, float32, (900, 16)."""
    rng = np.random.default_rng(0)
    weights = rng.random((900, 40)) * (rng.random((900, 40)) < 0.1)
    return unit_rows(weights @ rng.standard_normal((40, 16)) + 0.05 * rng.standard_normal((900, 16)))


@pytest.fixture(scope="module")
def small_head():
    return make_head(input_dim=16, hidden_dim=64, k=8)


@pytest.fixture(scope="module")
def held(rows, small_head, tmp_path_factory):
    """A whole contest of those that ours is most like, one whose package is missing, and one that has no time."""
    folder = tmp_path_factory.mktemp("contest")
    np.save(folder / "rows.npy", rows)
    small_head.save_pretrained(folder / "head")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RIVALS["usearch"], "needs", ("no_such_module", "no-such-package"))
        patch.setattr(RIVALS["hnswlib"], "needs", ("numpy", "numpy"))
        patch.setattr(RIVALS["hnswlib"], "build", lambda rival: _never(rival))
        call = ["bench", "search", "--head", str(folder / "head"), "--source", str(folder / "rows.npy"), *SIZES]
        call += ["--contestants", "csr_hf,flat,hnsw,hnswlib,usearch,binary,scipy,sentence-transformers"]
        call += ["--candidates", "10,100,2000", "--query-k-factor", "1,8", "--output", str(folder / "out")]
        code = main([*call, "--no-progress"])
    assert code == 0
    return folder / "out", json.loads((folder / "out" / "search.json").read_text())


def _never(rival):
    raise OverBudgetError("building would take about 9,999 s, and the budget is 600 (--budget)")


def of(written, name):
    return [one for one in written["results"] if one["contestant"] == name]


def test_contest_writes_what_it_measured_and_how(held):
    folder, written = held
    assert (folder / "search.png").read_bytes()[:4] == b"\x89PNG"
    assert {one["contestant"] for one in written["results"]} == {
        "csr_hf", "faiss flat", "faiss HNSW", "faiss binary + int8", "scipy CSR", "sentence-transformers"
    }  # fmt: skip
    for one in written["results"]:
        assert len(one["batch_ms"]) == len(one["single_ms_median"]) == 2
        assert 0 < one["single_ms_p50"] <= one["single_ms_p99"]
        assert 0 <= one["recall"] <= 1
        assert one["bytes_per_vector"] > 0
    details = written["details"]
    assert details["command"].startswith("csr-hf bench search --head")
    assert details["machine"] and {"python", "faiss-cpu", "torch"} <= details["versions"].keys()
    assert (details["documents"], details["threads"], details["k"], details["seed"]) == (2000, 1, 8, 0)
    assert details["data"] == {"rows": 900, "seeds": 850, "jitter": 0.5, "seed": 0}
    assert details["source"] == "rows.npy"
    assert {one["queries"] for one in of(written, "sentence-transformers")} == {8}


def test_contestants_that_are_missing_are_named_with_the_way_out(held):
    skipped = held[1]["skipped"]
    assert skipped["usearch"] == 'usearch needs no-such-package: pip install "csr_hf[bench]"'
    assert skipped["hnswlib"].endswith("and the budget is 600 (--budget)")
    assert skipped.keys() == {"usearch", "hnswlib"}


def test_exact_search_finds_everything_and_settings_that_do_more_find_more(held):
    written = held[1]
    (flat,) = of(written, "faiss flat")
    assert flat["recall"] == 1
    everything = [one for one in of(written, "csr_hf") if one["setting"]["candidates"] == 2000]
    # int8 swaps neighbors whose cosines differ by less than its steps.
    assert all(one["recall"] > 0.97 for one in everything)
    for query_k in (8, 64):
        ours = [one for one in of(written, "csr_hf") if one["setting"]["query_k"] == query_k]
        recalls = {one["setting"]["candidates"]: one["recall"] for one in ours}
        assert recalls[10] < recalls[100] < recalls[2000]
    efs = [(one["setting"]["ef"], one["recall"]) for one in of(written, "faiss HNSW")]
    assert efs == sorted(efs) and efs[-1][1] > 0.99
    assert written["matched_recall"]["0.95"]["scipy CSR"] is None
    assert written["matched_recall"]["0.95"]["csr_hf"]["batch"]["times_ours"] == 1


def test_contestants_over_the_same_codes_find_the_same(held):
    """Scipy's product and sentence-transformers' similarity have our scores: they differ in speed alone."""
    alone = {
        one["setting"]["query_k"]: one["recall"] for one in of(held[1], "csr_hf") if one["setting"]["candidates"] == 0
    }
    for one in of(held[1], "scipy CSR"):
        assert one["recall"] == pytest.approx(alone[one["setting"]["query_k"]], abs=0.01)


@pytest.mark.parametrize("name", ["seismic", "ivfpq", "hnswlib", "usearch"])
def test_every_other_rival_builds_and_finds(name, rows, small_head, tmp_path):
    pytest.importorskip(RIVALS[name].needs[0])
    corpus, _ = make_corpus(small_head, rows, SearchSizes(threads=1, candidates=(300,)), tmp_path)
    (built,), skipped = build_all([RIVALS[name]], corpus)
    assert not skipped
    truth = exact_neighbors(rows[:40], rows)
    recalls = []
    for setting in built.rival.settings():
        found = built.rival.search(rows[:40], 10, **setting)
        assert found.shape == (40, 10)
        recalls.append(neighbor_recall(found, truth))
        assert built.rival.search_one(rows[3], 10, **setting)[0] == found[3, 0]
    assert recalls[-1] > 0.9
    copies = built.rival.second.bytes_per_vector if hasattr(built.rival, "second") else 0
    assert built.rival.bytes_per_vector - copies > 8


def test_settings_with_other_copies_and_the_bytes_of_what_they_read(rows, small_head, tmp_path):
    sizes = SearchSizes(
        threads=1, candidates=(len(rows),), query_k_factors=(2,), sweep={"rescore": ["int8", "float16"]}
    )
    corpus, _ = make_corpus(small_head, rows, sizes, tmp_path)
    (built,), _ = build_all([RIVALS["csr_hf"]], corpus)
    truth, size, recall = exact_neighbors(rows[:40], rows), {}, {}
    for setting in built.rival.settings():
        stages = setting.get("scan"), setting.get("rescore")
        size[stages] = built.rival.bytes_of(setting)
        recall[stages] = neighbor_recall(built.rival.search(rows[:40], 10, **setting), truth)
    dim, codes = rows.shape[1], size[None, None]
    signs = -(-dim // 8)
    assert {stages: round(read - codes) for stages, read in size.items()} == {
        (None, None): 0,
        (None, "int8"): dim + 4,
        (None, "float16"): 2 * dim,
        ("binary", "int8"): signs + dim + 4,
        ("binary", "float16"): signs + 2 * dim,
    }
    assert recall[None, None] < recall["binary", "int8"] < recall["binary", "float16"]
    assert recall["binary", "float16"] > 0.99


def test_unknown_contestant_and_impossible_sizes_are_refused(rows, small_head, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", rows)
    small_head.save_pretrained(tmp_path / "head")
    call = ["bench", "search", "--head", str(tmp_path / "head"), "--source", str(tmp_path / "rows.npy")]
    for flags, message in (
        (["--contestants", "hsnw"], "contestant 'hsnw' is unknown. Did you mean 'hnsw'?"),
        (["--queries", "800", "--documents", "100"], "`queries` (800) may be half of the real embeddings at most"),
        (["--documents", "5", "--queries", "5"], "`documents` (5) must be at least 10"),
        (["--repeats", "0"], "`repeats` (0) must be at least 1"),
        (["--candidates", "5"], "`candidates` ((5,)) must name numbers of at least 10"),
    ):
        assert main([*call, "--output", str(tmp_path / "out"), *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "search.json").exists()


def test_embeddings_of_another_width_are_refused(small_head, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ones((100, 12), np.float32))
    small_head.save_pretrained(tmp_path / "head")
    call = ["bench", "search", "--head", str(tmp_path / "head"), "--source", str(tmp_path / "rows.npy")]
    assert main([*call, "--output", str(tmp_path / "out")]) == 2
    assert "of width 12, the head takes `input_dim` 16" in capsys.readouterr().err


def test_jitter_keeps_the_cosine_and_the_space_of_real_embeddings(tmp_path):
    rng = np.random.default_rng(1)
    # Only six of twenty-four directions are in use.
    basis = np.linalg.qr(rng.standard_normal((24, 6)))[0]
    seeds = unit_rows(rng.standard_normal((500, 6)) @ basis.T)
    for jitter in (0.25, 0.5, 1.0):
        made = jittered(seeds, 20_000, jitter, 3, tmp_path / f"{jitter}.npy")
        assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(made - made @ basis @ basis.T, axis=1).max() < 1e-3
        cosines = (made * seeds[np.arange(20_000) % 500]).sum(axis=1)
        # cos = (1 + jc) / sqrt(1 + 2jc + j²) with c the cosine of seed and noise, uniform on the sphere of six axes.
        common = unit_rows(rng.standard_normal((200_000, 6)))[:, 0]
        expected = (1 + jitter * common) / np.sqrt(1 + 2 * jitter * common + jitter**2)
        assert cosines.mean() == pytest.approx(expected.mean(), abs=0.003)
        assert cosines.std() == pytest.approx(expected.std(), abs=0.003)
    assert np.array_equal(made, jittered(seeds, 20_000, 1.0, 3, tmp_path / "again.npy"))
    assert not np.array_equal(made, jittered(seeds, 20_000, 1.0, 4, tmp_path / "other.npy"))
    assert np.allclose(jittered(seeds, 700, 0.0, 0, tmp_path / "none.npy")[500:], seeds[:200], atol=1e-6)


def test_queries_are_real_and_no_document_is_made_of_them(rows, tmp_path):
    data = make_data(rows, 850, 50, 0.0, 7, tmp_path)
    assert len(data.queries) == 50
    assert np.isclose(data.queries[:, None], rows).all(2).any(1).all()
    assert not np.isclose(data.queries[:, None], data.documents).all(2).any()


def test_exact_answers_are_those_of_brute_force(monkeypatch):
    rng = np.random.default_rng(2)
    documents, queries = (rng.standard_normal((n, 8)).astype(np.float32) for n in (1000, 30))
    monkeypatch.setattr("csr_hf.bench.search_data._CHUNK", 64)
    expected = np.argsort(-(queries @ documents.T), axis=1)[:, :10]
    assert np.array_equal(exact_neighbors(queries, documents), expected)
    assert exact_neighbors(queries, documents[:4]).shape == (30, 4)


def one(contestant, recall, batch, single):
    return Measured(contestant, {"at": recall}, recall, 10, batch, [single, single], 100.0, 1.0, 1.0)


RESULTS = [
    one("csr_hf", 0.90, [1.0, 1.0, 1.0], [2.0]),
    one("csr_hf", 0.96, [2.0, 2.0, 4.0], [3.0]),
    one("csr_hf", 0.97, [3.0, 3.0, 3.0], [2.5]),
    one("graph", 0.94, [0.1, 0.1, 0.1], [0.1]),
    one("graph", 0.99, [8.0, 6.0, 8.0], [5.0]),
    one("codes", 0.50, [0.1, 0.1, 0.1], [0.1]),
]


def test_fastest_at_the_same_recall_is_chosen_and_nothing_between():
    found = fastest_at(RESULTS, 0.95, lambda one: one.batch)
    assert {name: one and one.recall for name, one in found.items()} == {"csr_hf": 0.96, "graph": 0.99, "codes": None}
    assert fastest_at(RESULTS, 0.95, lambda one: one.single(50))["csr_hf"].recall == 0.97
    at = matched(RESULTS, 0.95)
    # Turn by turn 8/2, 6/2 and 8/4, not the ratio of the medians.
    assert at["graph"]["batch"] == {"setting": "at 0.99", "recall": 0.99, "ms": 8.0, "times_ours": 3.0}
    assert at["graph"]["single"]["times_ours"] == 2.0
    assert at["codes"] is None
    assert matched(RESULTS, 0.98)["graph"]["batch"]["times_ours"] is None


def test_line_of_the_plot_leaves_out_what_is_slower_and_worse():
    assert frontier([(1, 0.5), (2, 0.4), (3, 0.7), (4, 0.7)]) == [(1, 0.5), (3, 0.7)]


def test_second_stage_of_the_rivals_ranks_by_int8(rows, small_head, tmp_path):
    corpus, _ = make_corpus(small_head, rows, SearchSizes(threads=1), tmp_path)
    everything = np.tile(np.arange(len(rows)), (20, 1))
    assert neighbor_recall(Int8Stage(corpus).best(rows[:20], everything, 10), exact_neighbors(rows[:20], rows)) > 0.97
    some = padded([[5, 7], [1]], 3)
    assert some.tolist() == [[5, 7, -1], [1, -1, -1]]
    assert set(Int8Stage(corpus).best(rows[:2], some, 3)[1]) == {1, -1}


def test_scaled_codes_have_the_scores_of_our_first_stage(rows, small_head, tmp_path):
    corpus, _ = make_corpus(small_head, rows, SearchSizes(threads=1), tmp_path)
    (ours,), _ = build_all(chosen_rivals(["csr_hf"]), corpus)
    asked = project_queries(small_head, rows[:5]).codes(8)
    scores = (asked.to_scipy() @ scaled(corpus).to_scipy().T).toarray()
    found = ours.rival.indices["int8"].search(asked, 10, threads=1)
    assert np.take_along_axis(scores, found.positions, axis=1) == pytest.approx(found.scores, abs=3e-3)


def test_every_copy_that_ranks_has_an_index_of_its_own(rows, small_head, tmp_path):
    sizes = SearchSizes(threads=1, sweep={"rescore": ["int8", "float16"]})
    corpus, _ = make_corpus(small_head, rows, sizes, tmp_path)
    (ours,), _ = build_all(chosen_rivals(["csr_hf"]), corpus)
    int8 = {"rescore": "int8", "candidates": 20}
    float16 = {**int8, "rescore": "float16"}
    width = rows.shape[1]
    difference = ours.rival.bytes_of(float16) - ours.rival.bytes_of(int8)
    assert difference == pytest.approx(2 * width - (width + 4), abs=0.5)
    seconds = [ours.rival.cost_of(setting, ours.cost).seconds for setting in (int8, float16)]
    assert min(seconds) > 0
    assert sum(seconds) <= ours.cost.seconds
    for setting in ours.rival.settings():
        assert ours.rival.search(rows[:3], 5, **setting).shape == (3, 5)


def test_codes_of_another_head_take_part_under_a_name_of_their_own(rows, small_head, tmp_path, capsys):
    heads = {"head": small_head, "wide": make_head(input_dim=rows.shape[1], hidden_dim=96, k=4)}
    heads["other"] = make_head(input_dim=8, hidden_dim=96, k=4)
    for name, head in heads.items():
        head.save_pretrained(tmp_path / name)
    np.save(tmp_path / "rows.npy", rows)
    call = ["bench", "search", "--head", tmp_path / "head", "--source", tmp_path / "rows.npy", *SIZES]
    call += ["--contestants", "csr_hf,flat", "--candidates", "50", "--query-k-factor", "4", "--no-progress"]
    call = [str(word) for word in [*call, "--output", tmp_path / "out"]]
    wide = ["--other-head", str(tmp_path / "wide")]
    assert main([*call, *wide, *wide]) == 0
    written = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [one["hidden_dim"] for one in written["details"]["other_heads"]] == [96, 96]
    own, other, again = (of(written, f"csr_hf{name}") for name in ("", ", 96 latents", ", 96 latents (2)"))
    assert [one["setting"]["candidates"] for one in own] == [one["setting"]["candidates"] for one in other]
    # Its own k, half of the first head's: fewer bytes.
    assert all(a["bytes_per_vector"] > b["bytes_per_vector"] for a, b in zip(own, other, strict=True))
    assert [one["recall"] for one in again] == [one["recall"] for one in other]
    assert min(one["recall"] for one in other if one["setting"].get("scan")) > 0.5
    assert main([*call, "--other-head", str(tmp_path / "other")]) == 2
    assert "takes embeddings of width 8" in capsys.readouterr().err


def test_build_that_would_take_too_long_is_given_up_early(rows, small_head, tmp_path, monkeypatch):
    monkeypatch.setattr("csr_hf.bench.rivals._BLOCK", 50)
    corpus, _ = make_corpus(small_head, rows, SearchSizes(threads=1, budget=0.0), tmp_path)
    ready, skipped = build_all([FaissFlat], corpus)
    assert not ready
    assert re.fullmatch(r"building would take about 0 s, and the budget is 0 \(--budget\)", skipped["faiss flat"])


def test_task_gives_every_setting_its_ndcg(backbone, tmp_path, monkeypatch):
    from mteb.mocks import MOCK_TASK_TEST_GRID

    mock = {task.metadata.name: type(task) for task in MOCK_TASK_TEST_GRID}
    module = importlib.import_module("mteb.get_tasks")
    monkeypatch.setattr(module, "_TASKS_REGISTRY", {**module._TASKS_REGISTRY, **mock})
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.standard_normal((200, 384)).astype(np.float32))
    head = make_head(
        input_dim=384, hidden_dim=512, k=8, base_model_name_or_path="sentence-transformers/all-MiniLM-L6-v2"
    )
    head.save_pretrained(tmp_path / "head")
    call = ["bench", "search", "--head", tmp_path / "head", "--source", tmp_path / "rows.npy", "--documents", "200"]
    call += ["--queries", "20", "--single", "1", "--repeats", "1", "--threads", "1", "--contestants", "csr_hf,flat"]
    call += ["--candidates", "10", "--query-k-factor", "4", "--task", "MockRetrievalTask", "--no-progress"]
    assert main([str(word) for word in [*call, "--output", tmp_path / "out", "--device", "cpu"]]) == 0
    written = json.loads((tmp_path / "out" / "search.json").read_text())
    assert written["task"] == "MockRetrievalTask"
    assert all(0 < one["ndcg"] <= 1 for one in written["results"])
    assert main([str(word) for word in [*call, "--output", tmp_path / "out", "--task", "MockSTSTask"]]) == 2


def test_peak_of_memory_is_beyond_what_was_there():
    with PeakMemory() as peak:
        taken = np.ones(40 << 17)
    assert 30 < peak.mb < 200
    assert len(taken)


def test_memory_touched_before_a_build_is_no_part_of_its_cost():
    kept = []
    cost = cost_of(lambda: kept.append(np.ones(40 << 17)), 400 << 20)
    assert 30 < cost.peak_mb < 200
    assert cost.seconds > 0


def test_peaks_of_our_index_are_those_of_single_copies(rows, small_head, tmp_path, monkeypatch):
    monkeypatch.setattr(Corpus, "working_bytes", 400 << 20)
    sizes = SearchSizes(threads=1, sweep={"rescore": ["int8", "float16"]})
    corpus, _ = make_corpus(small_head, rows, sizes, tmp_path)
    (ours,), _ = build_all(chosen_rivals(["csr_hf"]), corpus)
    for copy in ("int8", "float16"):
        assert ours.rival.cost_of({"rescore": copy, "candidates": 20}, ours.cost).peak_mb < 200


def test_contestants_may_do_less_work():
    timings = compete([Contestant("a", lambda: 2.0), Contestant("b", lambda: 1.0, 4)], 2, 8, progress=False)
    assert [timing.rate for timing in timings] == [4.0, 4.0]
