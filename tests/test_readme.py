"""What the README says is what the results file holds."""

import json
from pathlib import Path

from csr_hf import Results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "model_cards" / "csr-all-MiniLM-L6-v2-python-docs" / "results"


def test_figures_are_those_of_the_results_file():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = Results.load(RESULTS)
    assert results.details["command"] in readme
    shown = [line.strip("│ ").split("│") for line in readme.splitlines() if line.startswith("│")]
    (task,) = {row.task for row in results.rows}
    _, expected = results._table(task)
    assert [[cell.strip() for cell in line] for line in shown] == expected
    assert (RESULTS / "retention.png").is_file()


def test_commands_of_the_readme_are_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("quickstart", "test"):
        assert f"\n{target}:" in makefile
        assert f"make {target}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_tasks_is_that_of_the_results_file():
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    folder = ROOT / "recipes" / "all-MiniLM-L6-v2" / "results" / "general_k32"
    results = Results.load(folder)
    assert results.summary_markdown() in readme
    assert results.details["command"] in readme
    assert (folder / "retention.png").is_file()
    # What is published for all-MiniLM-L6-v2: if the dense rows are off, the harness is.
    published = {"SciFact": 0.645, "STSBenchmark": 0.820, "Banking77Classification": 0.80}
    for task, score in published.items():
        (dense,) = results.select(task=task, method="dense")
        assert abs(dense.score - score) < 0.002


SMALL_CLIP = ROOT / "recipes" / "tiny-clip" / "results"
DIRECTIONS = ("text to image", "image to text")
RECALLS = ("R@1", "R@5", "R@10")


def recalls(rows):
    """Share of the dense recall in both directions; the recall itself for the dense model."""
    found = {(row.task.rpartition(", ")[2], row.metric): row for row in rows}
    ordered = [found[direction, metric] for direction in DIRECTIONS for metric in RECALLS]
    return [f"{row.score if row.method == 'dense' else row.retention:.3f}" for row in ordered]


def table(header, lines):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]


def cross_modal_lines():
    results = Results.load(SMALL_CLIP / "emoji_k64")
    chosen = [("dense", None), *((f"CSR{kind}", k) for k in (16, 64) for kind in ("", ", decoded", " + int8"))]
    chosen += [("int8", None), ("binary", None)]
    header = ["method", "k", *(f"{direction}, {metric}" for direction in DIRECTIONS for metric in RECALLS)]
    rows = [[name, str(k or ""), *recalls(results.select(method=name, k=k))] for name, k in chosen]
    return table(header, rows)


def variant_lines():
    results = Results.load(SMALL_CLIP / "variants")
    names = {
        "modality_bias True": "as it is",
        "modality_bias False": "one bias for both (the paper's)",
        "gamma 0": "no contrast",
        "contrast_on reconstructions": "contrast on reconstructions (the paper's)",
    }
    header = ["variant", *(f"{direction}, {metric}" for direction in DIRECTIONS for metric in RECALLS)]
    header += ["dead in images", "dead in texts"]
    lines = []
    for run, (ending, name) in zip(results.details["runs"], names.items(), strict=True):
        rows = [row for row in results.rows if row.method.endswith(ending) and row.method.startswith("CSR, hidden")]
        dead = [f"{run[f'dead_fraction_{modality}']:.1%}" for modality in ("image", "text")]
        lines.append([name, *recalls(rows), *dead])
    return table(header, lines)


def separate_lines():
    results = Results.load(SMALL_CLIP / "separate")
    header = ["heads", *(f"{direction}, {metric}" for direction in DIRECTIONS for metric in RECALLS)]
    methods = dict.fromkeys(row.method for row in results.rows)
    return table(header, [[method, *recalls(results.select(method=method))] for method in methods])


def labeled_lines():
    results = Results.load(SMALL_CLIP / "cifar10_k64")
    chosen = [("dense", None, 1024), ("CSR", 16, 68), ("CSR, decoded", 16, 68), ("CSR", 64, 260)]
    chosen += [
        ("CSR, decoded", 64, 260),
        ("PCA", None, 68),
        ("PCA", None, 260),
        ("int8", None, 256),
        ("binary", None, 32),
    ]
    lines = []
    for method, k, size in chosen:
        rows = results.select(method=method, k=k, bytes_per_vector=size)
        found = {row.metric: f"{row.score if method == 'dense' else row.retention:.3f}" for row in rows}
        lines.append([method, str(k or ""), str(size), found["1-NN accuracy"], found["linear probe"]])
    return table(["method", "k", "bytes", "1-NN accuracy", "linear probe"], lines)


def test_tables_of_images_are_those_of_the_results_files():
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for lines in (cross_modal_lines(), variant_lines(), separate_lines(), labeled_lines()):
        assert "\n".join(lines) in readme
    photographs = Results.load(SMALL_CLIP / "cifar10")
    assert photographs.summary_markdown() in readme
    dead = Results.load(SMALL_CLIP / "separate").details["dead"]
    assert f"{dead['image']:.1%}".replace("%", " %") + " (images)" in readme
    assert f"{dead['text']:.1%}".replace("%", " %") + " (texts)" in readme
    figures = json.loads((SMALL_CLIP / "cifar10_k64" / "training.json").read_text(encoding="utf-8"))
    assert f"{figures['dead_fraction']:.1%}".replace("%", " %") + " of the latents stay dead" in readme
    for folder in ("emoji_k64", "variants", "cifar10", "cifar10_k64", "separate"):
        assert Results.load(SMALL_CLIP / folder).details["command"] in readme


VARIANTS = {
    "training.balance=2": "as it is",
    "training.balance=0": "without balance",
    "training.balance=8": "balance 8",
    "training.distillation=0": "without distillation",
    "training.distillation=1": "distillation 1",
    "training.cosine=1": "cosine reconstruction 1",
    "training.gamma=0.1,training.contrast=self": "contrast with itself 0.1",
    "training.gamma=0.1,training.contrast=pairs": "contrast of pairs 0.1",
    "training.gamma=0.1,training.contrast=neighbors": "contrast with neighbors 0.1",
    "training.k_start=64": "k annealed from 64",
    "model.init=data": "atoms from the data",
    "training.per_device_train_batch_size=1024": "batch 1,024, as many steps",
    "model.tied_decoder=False": "a decoder of its own",
    "training.error=element": "error over elements",
    "training.gamma=0.1,training.contrast=pairs,training.distillation=0": "contrast of pairs 0.1, no distillation",
    "training.gamma=0.1,training.contrast=pairs,model.init=data": "contrast of pairs 0.1, atoms from the data",
    "training.gamma=0.3,training.contrast=pairs": "contrast of pairs 0.3",
    "training.gamma=0.1,training.contrast=pairs,training.distillation=0,model.init=data": (
        "contrast of pairs 0.1, no distillation, atoms from the data"
    ),
}


def training_variant_lines():
    results = Results.load(ROOT / "recipes" / "results" / "variants")
    lines = []
    for run, name in zip(results.details["runs"], VARIANTS.values(), strict=True):
        varied = {key: value for key, value in run.items() if "." in key}
        ending = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in varied.items())
        rows = [row for row in results.rows if row.method.endswith(f"steps, {ending}") and row.metric == "nDCG@10"]
        kept = {row.method.partition(", hidden_dim")[0]: f"{row.retention:.3f}" for row in rows}
        figures = [f"{run['explained_variance']:.3f}", f"{run['postings_per_document']:.2f}"]
        lines.append([name, kept["CSR"], kept["CSR, decoded"], *figures, f"{run['dead_fraction']:.1%}"])
    return table(["variant", "CSR", "CSR, decoded", "explained variance", "postings", "dead"], lines)


def test_table_of_training_variants_is_that_of_the_results_file():
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(training_variant_lines()) in readme
    assert Results.load(ROOT / "recipes" / "results" / "variants").details["command"] in readme
