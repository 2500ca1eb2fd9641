"""Write the training pairs of an MTEB retrieval task as a Parquet file with the columns `anchor` and `positive`.

    python recipes/paper/task_pairs.py FiQA2018 data/fiqa_pairs.parquet

A pair is a question of the split `train` and a document that its judgments call relevant. Nothing of another split is
read but documents.
"""

from __future__ import annotations

import sys

import mteb
from datasets import Dataset


def read_pairs(name: str) -> list[dict[str, str]]:
    """Read the pairs of a task."""
    task = mteb.get_task(name, eval_splits=["train"])
    task.load_data()
    pairs = []
    for subset in task.dataset.values():
        split = subset["train"]
        # Titles as mteb joins them for the model.
        documents = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in split["corpus"]}
        questions = {row["id"]: row["text"] for row in split["queries"]}
        for question, judged in split["relevant_docs"].items():
            pairs += [
                {"anchor": questions[question], "positive": documents[document]}
                for document, relevance in judged.items()
                if relevance > 0
            ]
    return pairs


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Dataset.from_list(read_pairs(sys.argv[1])).to_parquet(sys.argv[2])
