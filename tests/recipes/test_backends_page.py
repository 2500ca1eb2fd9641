"""The commands of recipes/backends.md run as they are written. Its Python blocks run with those of all pages."""

import re
import shlex
from pathlib import Path

import pytest
from datasets import Dataset

from csr_hf.cli.main import main
from tests.helpers.scripts import ROOT
from tests.publishing.conftest import make_head, make_results, write_run

RECIPE = (ROOT / "recipes" / "backends.md").read_text(encoding="utf-8")


@pytest.fixture
def quickstart(backbone, tmp_path, monkeypatch):
    """A working folder with the head and the corpus that the recipe speaks of."""
    pytest.importorskip("milvus_lite", reason='pip install "csr_hf[milvus]"')
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "quickstart", make_head(), make_results())
    bodies = ["Matrices are multiplied row by column.", "A file is read line by line.", "Lists are sorted in place."]
    Dataset.from_dict({"id": ["a", "b", "c"], "body": bodies}).to_parquet("docs.parquet")
    Path("shop.csv").write_text("text,price,lang\na warm jacket,89.90,en\na warm coat,120,en\neine Jacke,79,de\n")


def test_commands_run(quickstart, capsys):
    commands = re.findall(r"^    csr-hf (.*)$", RECIPE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["index", "search"] * 2
    for command in commands:
        assert main(shlex.split(command)) == 0
    shown = capsys.readouterr().out
    assert "Matrices are multiplied row by column." in shown
    # Of the goods, one alone fits the condition.
    assert "a warm jacket\n" in shown and "a warm coat" not in shown and "eine Jacke" not in shown
