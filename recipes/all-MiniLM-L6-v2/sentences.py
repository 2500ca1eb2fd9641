"""Write the sentences of the texts that the general head learns from, as short texts to learn from beside them.

    python recipes/all-MiniLM-L6-v2/sentences.py data/sentences.parquet

Up to 20,000 sentences of each file of pairs, of 20 to 250 characters, none twice. No sentence is of a row that the
recipe holds out.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from csr_hf.data.sources import load_sources
from csr_hf.runs.recipe import RunRecipe

RECIPE = Path(__file__).with_name("general_k32.yaml")
_MOST = 20_000
_CHARACTERS = range(20, 251)
_TEXT_CHARACTERS = 3000
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


def read_sentences(recipe: RunRecipe) -> list[str]:
    """Split the positives of a recipe's pairs that are trained on into sentences.

    Args:
        recipe: its sources without positives are left out.
    """
    pairs = [source for source in recipe.data.sources if "positive" in source.columns]
    rng, found = np.random.default_rng(0), dict[str, None]()
    for source in load_sources(replace(recipe.data, sources=pairs, max_characters=None)):
        texts = source.rows.select(np.flatnonzero(~source.held_out))["positive"]
        parts = {part.strip() for text in texts for part in _ENDS.split(text[:_TEXT_CHARACTERS])}
        sentences = sorted(part for part in parts if len(part) in _CHARACTERS)
        found |= dict.fromkeys(sentences[at] for at in rng.permutation(len(sentences))[:_MOST])
    return list(found)


def main() -> None:
    """Write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="parquet file to write")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"text": read_sentences(RunRecipe.load(RECIPE))}).to_parquet(options.output)


if __name__ == "__main__":
    main()
