"""What the README says is what the results file holds."""

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


def test_files_in_the_tree_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("csr_hf/\n")[2].partition("```")[0]
    folder = ROOT / "csr_hf"
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith("    "):
            assert (folder / name).exists(), name
        elif line.startswith("  "):
            assert (ROOT / "csr_hf" / name).exists(), name
            folder = ROOT / "csr_hf" / name if name.endswith("/") else folder
        else:
            assert (ROOT / name).exists(), name


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
