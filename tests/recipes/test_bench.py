"""recipes/bench: every system on small data, values against exact ones, refusals, and the files it writes."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from csr_hf import CSRConfig, CSRModel
from csr_hf.codes import encode_embeddings
from csr_hf.coding.coder import Coder
from csr_hf.coding.fitting import fit_index_coder

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "bench"))

import hidden_dims
import search
import train
from data import load_data
from filters import measure_filters
from measure import PeakMemory, cost_of, ratio_by_turn, time_in_turns
from report import Measured, frontier, interpolated_ms, match_recall
from systems import AdaptedHead, Corpus

DIM, DOCUMENTS, QUERIES = 64, 1200, 30


@pytest.fixture(scope="module")
def rows():
    """Unit rows near a few of many directions, float32."""
    rng = np.random.default_rng(0)
    weights = rng.random((DOCUMENTS + QUERIES, 150)) * (rng.random((DOCUMENTS + QUERIES, 150)) < 0.05)
    found = weights @ rng.standard_normal((150, DIM)) + 0.05 * rng.standard_normal((DOCUMENTS + QUERIES, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def head(rows):
    """Atoms that are embeddings: a head as good as a quickly trained one."""
    torch.manual_seed(0)
    head = CSRModel(CSRConfig(input_dim=DIM, hidden_dim=256, k=8)).eval()
    with torch.no_grad():
        head.encoder.weight.copy_(torch.from_numpy(rows[:256]))
    return head


@pytest.fixture(scope="module")
def folder(rows, head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    np.save(folder / "rows.npy", rows)
    head.save_pretrained(folder / "head")
    return folder


@pytest.fixture(scope="module")
def exact(rows):
    return np.argsort(-(rows[DOCUMENTS:] @ rows[:DOCUMENTS].T), axis=1)[:, :10]


@pytest.fixture(scope="module")
def corpus(rows, head, tmp_path_factory):
    return Corpus(rows[:DOCUMENTS], 1, tmp_path_factory.mktemp("files"), head, AdaptedHead(head, 7.0))


def call(folder, *flags):
    sizes = ["--n-queries", str(QUERIES), "--single", "3", "--turns", "2", "--threads", "1"]
    return search.main(["--embeddings", str(folder / "rows.npy"), *sizes, "--output", str(folder / "out"), *flags])


@pytest.fixture(scope="module")
def written(folder):
    """A whole benchmark of csr_hf and faiss, one system whose package is missing, and one that fails."""

    def fail(system):
        raise RuntimeError("out of luck\nand more")

    (folder / "rows.about.txt").write_text("Made up.\n")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.SYSTEMS["scann"], "package", ("no_such_module", "no-such-package==1"))
        patch.setattr(search.SYSTEMS["symqg"], "package", None)
        patch.setattr(search.SYSTEMS["symqg"], "build", fail)
        systems = ["--systems", "csr_hf,csr_hf_codes,flat,hnsw,scann,symqg", "--values", "hnsw.ef=16,512"]
        code = call(folder, "--head", str(folder / "head"), *systems, "--values", "csr_hf.recall=0.8,0.95")
    assert code == 0
    if cores:
        assert os.sched_getaffinity(0) == cores
    return json.loads((folder / "out" / "search.json").read_text())


def of(written, name):
    return [one for one in written["results"] if one["system"] == name]


def test_files_tell_what_was_measured_and_how(folder, written):
    assert (folder / "out" / "search.png").read_bytes()[:4] == b"\x89PNG"
    details = written["details"]
    assert details["command"].startswith("python recipes/bench/search.py --embeddings rows.npy")
    assert str(folder) not in json.dumps(written)
    assert details["machine"] and {"python", "csr_hf", "torch"} <= details["versions"].keys()
    assert (details["threads"], details["turns"], details["single"]) == (1, 2, 3)
    assert details["data"] == {
        "embeddings": "rows.npy", "queries_from": "the last rows of rows.npy", "rows": DOCUMENTS + QUERIES, "dim": DIM,
        "documents": DOCUMENTS, "queries": QUERIES, "queries_with_a_copy_among_documents": 0, "about": ["Made up."],
    }  # fmt: skip
    assert details["head"] == {"input_dim": DIM, "hidden_dim": 256, "k": 8}
    for one in written["results"]:
        assert len(one["batch_ms"]) == len(one["single_ms_median"]) == 2
        assert 0 < one["single_ms_p50"] <= one["single_ms_p99"]
        assert one["batch_ms_median"] == pytest.approx(np.median(one["batch_ms"]), rel=1e-4)
        assert one["bytes_per_document"] > 8


def test_searches_among_a_part_of_the_documents_are_measured_where_there_are_filters(written):
    assert set(written["filters"]) == {"csr_hf", "csr_hf, codes alone"}
    found = written["filters"]["csr_hf"]
    assert [one["share"] for one in found] == [1.0, 0.01, 0.1, 0.5]
    assert found[0]["batch_times"] == found[0]["single_times"] == 1
    for one in found:
        assert 0.8 < one["recall"] <= 1
        assert min(one["batch_ms"], one["single_ms"], one["batch_times"], one["single_times"]) > 0


def test_systems_that_cannot_be_built_are_named_with_the_reason(written):
    assert written["skipped"] == {
        "ScaNN": "ScaNN needs no-such-package==1: pip install no-such-package==1",
        "SymphonyQG": "out of luck",
    }


def test_more_effort_finds_more_and_exact_search_everything(written):
    assert of(written, "faiss flat")[0]["recall"] == 1
    few, many = of(written, "faiss HNSW32")
    assert few["recall"] <= many["recall"] > 0.95
    few, many = of(written, "csr_hf")
    assert [one["label"] for one in (few, many)] == ["recall 0.8", "recall 0.95"]
    assert few["recall"] <= many["recall"] > 0.9
    matched = written["matched_recall"]["0.95"]
    assert matched["csr_hf, codes alone"] is None
    assert min(found["batch"]["times_csr_hf"] for found in matched.values() if found) <= 1


@pytest.mark.parametrize("name", search.SYSTEMS)
def test_every_system_builds_and_finds(name, corpus, rows, exact):
    kind = search.SYSTEMS[name]
    if kind.package:
        pytest.importorskip(kind.package[0])
    system = kind(corpus)
    system.check()
    system.build()
    queries, settings = rows[DOCUMENTS:], system.settings()
    assert settings == [dict(entry) for entry in dict.fromkeys(tuple(setting.items()) for setting in settings)]
    found = np.asarray(system.search(queries, 10, **settings[-1]))
    assert found.shape == (QUERIES, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert recall > (0.5 if name == "csr_hf_codes" else 0.9)
    assert system.search_one(queries[3], 10, **settings[-1])[0] == found[3, 0]
    assert 8 < system.bytes_per_document < 30 * DIM
    assert not list(corpus.folder.glob("index*"))


def test_bytes_are_those_of_what_is_kept(corpus):
    sizes = {}
    for name in ("csr_hf", "csr_hf_float16"):
        system = search.SYSTEMS[name](corpus)
        system.build()
        sizes[name] = system.bytes_per_document
    assert sizes["csr_hf_float16"] - sizes["csr_hf"] == pytest.approx(2 * DIM, abs=0.5)


def test_the_training_of_an_adapted_head_counts_as_build(corpus):
    (built,), _ = search.build_all([search.SYSTEMS["csr_hf_adapted"]], corpus)
    assert built.cost.seconds > 7 == built.system.seconds_before
    assert (
        built.system.index.settings["residual"] == fit_index_coder(corpus.head, corpus.documents).settings["residual"]
    )


def test_filters_are_measured_against_the_nearest_of_those_allowed(folder):
    class Exact(search.SYSTEMS["flat"]):
        def search_among(self, allowed, queries, top_k, **setting):
            scores = queries @ self.corpus.documents.T
            if allowed is not None:
                scores[:, ~allowed] = -2
            return np.argsort(-scores, axis=1)[:, :top_k]

    data = load_data(folder / "rows.npy", n_queries=QUERIES)
    found = measure_filters(Exact(Corpus(data.documents, 1, folder)), data, 1, 2)
    assert [one["recall"] for one in found] == [1.0] * 4


def test_data_are_split_and_answers_are_those_of_brute_force(folder, rows, exact, tmp_path):
    data = load_data(folder / "rows.npy", n_queries=QUERIES)
    assert np.allclose(data.documents, rows[:DOCUMENTS], atol=1e-6)
    assert np.array_equal(data.neighbors, exact)
    # Other lengths change nothing, and queries may come from a file of their own.
    np.save(tmp_path / "queries.npy", 3 * rows[DOCUMENTS - 5 :].astype(np.float64))
    other = load_data(folder / "rows.npy", tmp_path / "queries.npy", n_documents=DOCUMENTS, n_queries=35)
    assert np.array_equal(other.neighbors[5:], exact)
    assert np.array_equal(other.neighbors[:5, 0], np.arange(DOCUMENTS - 5, DOCUMENTS))
    assert other.description["queries_with_a_copy_among_documents"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--systems", "hsnw"], "system 'hsnw' is unknown. Did you mean `hnsw`?"),
        (["--values", "hnsw.fe=3"], "hnsw has no 'fe'. Did you mean `ef`?"),
        (["--values", "hnsw.ef=some"], "'some' is no number"),
        (["--systems", "flat", "--values", "hnsw.ef=16"], "hnsw is not among `--systems`. Add it there."),
        (["--systems", "csr_hf_codes"], "none can be built (csr_hf, codes alone: this system searches codes."),
        (["--adapted", "head"], "`--adapted` (head) must be a run of csr-hf train"),
        (["--turns", "0"], "`--turns` (0) must be at least 1"),
        (["--threads", "0"], "`--threads` (0) must be between 1 and"),
        (["--n-documents", "5"], "`--n-documents` (5)"),
        (["--n-documents", "1201"], "1201 documents and 30 queries are more than the files hold (1230 rows"),
        (["--queries", "none.npy"], "`--queries` (none.npy) cannot be read"),
        (["--queries", "narrow.npy"], "`--queries` are 3 wide, `--embeddings` 64"),
        (["--embeddings", "numbers.npy"], "must hold floats of shape (rows, dim)"),
        (["--embeddings", "broken.npy"], "`--embeddings` holds NaN or infinity"),
        (["--embeddings", "wide.npy", "--head", "head"], "`--embeddings` are 65 wide, the head takes `input_dim` 64"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(folder)
    np.save("narrow.npy", np.ones((50, 3)))
    np.save("numbers.npy", np.ones((50, 3), np.int64))
    np.save("wide.npy", np.ones((50, 65)))
    np.save("broken.npy", np.full((50, 3), np.nan))
    assert call(folder, "--output", "refused", *flags) == 2
    assert message in capsys.readouterr().err
    assert not Path("refused").exists()


def test_systems_over_codes_are_left_out_without_a_head(rows, tmp_path):
    built, skipped = search.build_all(search.chosen_systems("csr_hf_codes,flat", []), Corpus(rows, 1, tmp_path))
    assert skipped["csr_hf, codes alone"] == "this system searches codes. Name a head with --head."
    assert [one.system.name for one in built] == ["faiss flat"]


def one(system, recall, batch, single):
    return Measured(system, {"at": recall}, recall, 10, batch, [single, single], 100.0, 1.0, 1.0)


RESULTS = [
    one("csr_hf, a", 0.90, [1.0, 1.0, 1.0], [2.0]),
    one("csr_hf, b", 0.90, [1.0, 1.0, 1.0], [2.0]),
    one("csr_hf, b", 0.96, [2.0, 2.0, 4.0], [3.0]),
    one("csr_hf, b", 0.97, [3.0, 3.0, 3.0], [2.5]),
    one("csr_hf, c", 0.99, [0.1, 0.1, 0.1], [0.1]),
    one("graph", 0.94, [0.1, 0.1, 0.1], [0.1]),
    one("graph", 0.99, [8.0, 6.0, 8.0], [5.0]),
    one("codes", 0.50, [0.1, 0.1, 0.1], [0.1]),
]


def test_systems_are_compared_by_the_fastest_setting_that_reaches_a_recall():
    found = match_recall(RESULTS, 0.95)
    assert found["csr_hf, a"] is None and found["codes"] is None
    # Turn by turn 8/2, 6/2 and 8/4, not the ratio of the medians.
    batch = found["graph"]["batch"]
    assert (batch["setting"], batch["recall"], batch["ms"], batch["times_csr_hf"]) == ("at 0.99", 0.99, 8.0, 3.0)
    assert found["graph"]["single"]["times_csr_hf"] == 2.0
    # A fifth of the way from 0.94 to 0.99, of a factor of 80; csr_hf at five sixths of the way from 1 to 2.
    assert batch["interpolated_ms"] == pytest.approx(0.1 * 80**0.2)
    assert batch["interpolated_times_csr_hf"] == pytest.approx(0.1 * 80**0.2 / 2 ** (5 / 6))
    # The first of csr_hf's systems that reaches a recall stands for it.
    assert match_recall(RESULTS, 0.98)["graph"]["batch"]["times_csr_hf"] == pytest.approx(80)
    rivals = [one for one in RESULTS if one.system == "graph"]
    assert match_recall(rivals, 0.98)["graph"]["batch"]["times_csr_hf"] is None


def test_line_of_the_plot_leaves_out_what_is_slower_and_worse():
    points = [(3, 0.7), (1, 0.5), (2, 0.4), (4, 0.7)]
    assert frontier(points) == [(1, 0.5), (3, 0.7)]
    assert interpolated_ms(points, 0.6) == pytest.approx(3**0.5)
    assert interpolated_ms(points, 0.3) == 1
    assert interpolated_ms(points, 0.8) is None


def test_memory_is_counted_beyond_what_was_in_use_and_touched_before():
    with PeakMemory() as peak:
        taken = np.ones(40 << 17)
    assert 30 < peak.mb < 200 and len(taken)
    kept = []
    cost = cost_of(lambda: kept.append(np.ones(40 << 17)), 400 << 20)
    assert 30 < cost.peak_mb < 200 and cost.seconds > 0
    # What was freed in small pieces, which the C library keeps, is not used again unseen.
    pieces = [bytes(50_000) for _ in range(1000)]
    del pieces
    with PeakMemory() as peak:
        pieces = [bytes(50_000) for _ in range(1000)]
    assert 40 < peak.mb < 200 and len(pieces)
    both = cost.after(type(cost)(5.0, 1000.0))
    assert both == (cost.seconds + 5, 1000.0)


def test_runs_take_turns_and_the_first_turn_does_not_count():
    order = []

    def run(name):
        order.append(name)
        return float(len(order))

    assert time_in_turns([("a", lambda: run("a")), ("b", lambda: run("b"))], 2) == [[3.0, 5.0], [4.0, 6.0]]
    assert order == ["a", "b"] * 3
    assert ratio_by_turn([1, 1, 2], [2, 3, 2]) == 2


@pytest.mark.slow
def test_training_is_measured(tmp_path):
    output = tmp_path / "train.json"
    sizes = ["--input-dim", "16", "--hidden-dim", "64", "--k", "4", "--batch-size", "32"]
    assert train.main([*sizes, "--steps", "2", "--repeats", "2", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    assert list(written["rates"]) == ["csr_hf", "plain loop", "sentence-transformers"]
    assert set(written["times_faster"]) == {"plain loop", "sentence-transformers"}
    assert all(len(timing["seconds"]) == 2 and timing["peak_mb"] >= 0 for timing in written["timings"])
    assert written["details"]["command"].startswith("python recipes/bench/train.py --input-dim 16")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones(50, np.float32), "must hold floats of shape (rows, dim)"),
        (np.ones((50, 3), np.int64), "must hold floats of shape (rows, dim)"),
        (None, "cannot be read as an npy file"),
    ],
)
def test_training_on_no_embeddings_is_refused(tmp_path, capsys, rows, message):
    path = tmp_path / "rows.npy"
    path.touch()
    if rows is not None:
        np.save(path, rows)
    assert train.main(["--embeddings", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"`--embeddings` ({path})" in error and message in error


def test_searches_through_codes_are_measured_beside_dense_ones(folder, head, rows, tmp_path):
    output = tmp_path / "found.json"
    arguments = [str(folder / "head"), "--embeddings", str(folder / "rows.npy"), "--n-queries", str(QUERIES)]
    assert hidden_dims.main([*arguments, "--ks", "4,8", "--turns", "2", "--output", str(output)]) == 0
    whole, cut_4, cut_8, codes_4, codes_8 = json.loads(output.read_text())["searches"]
    assert (whole["dims"], cut_4["dims"], cut_8["dims"]) == (DIM, 4, 8)
    assert whole["recall"] == 1
    assert cut_4["recall"] < cut_8["recall"] < 1 and codes_4["recall"] < codes_8["recall"] < 1
    for each in (whole, cut_4, codes_4, codes_8):
        assert len(each["multiply_seconds"]) == len(each["find_seconds"]) == 2

    coder = Coder(head, k=8)
    stored = coder.unpack(coder.encode(rows[:DOCUMENTS])).to_scipy().toarray() != 0
    asked = encode_embeddings(head, rows[DOCUMENTS:], 8).to_scipy().toarray() != 0
    assert codes_8["postings"] == pytest.approx((asked.astype(int) @ stored.T.astype(int)).mean())
    assert (codes_8["hidden_dim"], codes_8["k"], codes_8["postings_if_even"]) == (256, 8, 0.25)


def test_what_is_missing_or_too_small_is_named_before_anything_is_measured(folder, tmp_path, capsys):
    output = tmp_path / "found.json"
    arguments = [str(folder / "head"), "--embeddings", str(tmp_path / "none.npy"), "--output", str(output)]
    assert hidden_dims.main(arguments) == 2
    assert "none.npy" in capsys.readouterr().err and not output.exists()
    arguments = [str(folder / "head"), "--embeddings", str(folder / "rows.npy"), "--output", str(output)]
    for wrong in (["--turns", "0"], ["--ks", "8,0"]):
        assert hidden_dims.main([*arguments, *wrong]) == 2
        assert "must be at least 1" in capsys.readouterr().err
