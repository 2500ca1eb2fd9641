"""Write the documents of an MTEB retrieval task as a Parquet file with one column `text`: a corpus to adapt a head to.

    python recipes/task_corpus.py SciFact data/scifact.parquet

Queries and relevance judgments are not touched.
"""

import sys

import mteb
from datasets import Dataset

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    task = mteb.get_task(sys.argv[1])
    task.load_data()
    texts = {}
    for subset in task.dataset.values():
        for split in task.metadata.eval_splits:
            for row in subset[split]["corpus"]:
                # As mteb joins them for the model.
                texts[f"{row.get('title') or ''} {row['text']}".strip()] = True
    Dataset.from_dict({"text": list(texts)}).to_parquet(sys.argv[2])
