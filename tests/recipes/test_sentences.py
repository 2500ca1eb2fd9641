"""Sentences of the general recipe's texts: of rows that are trained on, none twice, and pairs without them."""

import re

import numpy as np
from datasets import Dataset

from csr_hf import RunRecipe
from csr_hf.data.sources import load_sources
from tests.helpers.scripts import load_script

script = load_script("all-MiniLM-L6-v2/sentences")
text_matryoshka = load_script("paper/text_matryoshka")


def make_recipe(folder, rows=200):
    for name in ("one", "two"):
        texts = [f"Text {row} of {name} begins here. Does it end? No, {row} goes on!\nTiny." for row in range(rows)]
        pairs = {"question": [f"what {row}" for row in range(rows)], "answer": texts}
        Dataset.from_dict(pairs).to_parquet(folder / f"{name}.parquet")
    columns = {"anchor": "question", "positive": "answer"}
    sources = [{"source": str(folder / f"{name}.parquet"), "columns": columns} for name in ("one", "two")]
    sources.append({"source": str(folder / "sentences.parquet"), "columns": {"text": "text"}})
    data = {"sources": sources, "held_out": 0.2}
    return RunRecipe.from_dict({"output_dir": str(folder / "run"), "backbone": {"name_or_path": "any"}, "data": data})


def test_sentences_are_of_rows_that_are_trained_on(tmp_path):
    recipe = make_recipe(tmp_path)
    found = script.read_sentences(recipe)
    Dataset.from_dict({"text": found}).to_parquet(tmp_path / "sentences.parquet")
    first, second, _ = load_sources(recipe.data)
    for source, name in ((first, "one"), (second, "two")):
        rows = {int(re.search(r"\d+", text)[0]) for text in found if text.endswith(f"of {name} begins here.")}
        assert rows == set(np.flatnonzero(~source.held_out).tolist()) and 100 < len(rows) < 200
    assert len(set(found)) == len(found)
    # Those of fewer than 20 characters are left out.
    assert {re.sub(r"\d+", "N", text) for text in found} == {
        f"Text N of {name} begins here." for name in ("one", "two")
    }


def test_a_rival_learns_from_the_pairs_alone(tmp_path):
    recipe = make_recipe(tmp_path)
    pairs = text_matryoshka.read_pairs(recipe)
    assert set(pairs.column_names) == {"anchor", "positive"} and 200 < len(pairs) < 400
