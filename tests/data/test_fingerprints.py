from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from csr_hf import Source
from csr_hf.data.fingerprints import fingerprint_source, fingerprint_vectors
from csr_hf.data.vectors import ChunkedVectors

ROWS = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
TEXTS = [f"text {number}" for number in range(40)]


def make_source(column="text", row=None, value=None):
    columns = {"id": list(map(str, range(40))), "text": list(TEXTS), "note": ["None", *[None] * 39]}
    if row is not None:
        columns[column][row] = value
    labels = np.arange(40) % 3
    return Source(
        "a.csv", ("text",), np.arange(40) % 5 == 0, Dataset.from_dict(columns), {"text": ROWS}, labels, kept=("note",)
    )


def with_vector(row):
    rows = ROWS.copy()
    rows[row, -1] = np.nextafter(rows[row, -1], np.float32(9))
    return replace(make_source(), vectors={"text": rows})


@pytest.mark.parametrize("row", [0, 17, 39])
def test_any_changed_row_is_noticed(row):
    same, changed = fingerprint_source(make_source()), np.arange(40)
    assert fingerprint_source(make_source()) == same
    held_out, labels = make_source().held_out.copy(), make_source().labels.copy()
    held_out[row], labels[row] = not held_out[row], 7
    for other in (
        make_source("text", row, "another"),
        make_source("id", row, "another"),
        make_source("note", row, "None" if row else None),
        with_vector(row),
        replace(make_source(), held_out=held_out),
        replace(make_source(), labels=labels),
    ):
        assert fingerprint_source(other)["content"] != same["content"]
    changed[[row, 20]] = changed[[20, row]]
    swapped = replace(make_source(), vectors={"text": ROWS[changed]})
    assert fingerprint_source(swapped)["content"] != same["content"]


def test_texts_do_not_run_into_each_other():
    found = {
        fingerprint_source(
            Source("a.csv", ("text",), np.zeros(2, bool), Dataset.from_dict({"text": texts}), {"text": ROWS[:2]})
        )["content"]
        for texts in (["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None], ["abc", "None"])
    }
    assert len(found) == 5


def test_what_holds_the_embeddings_does_not_count():
    half = ROWS.astype(np.float16)
    assert fingerprint_vectors(half) == fingerprint_vectors(half.astype(np.float32))
    assert fingerprint_vectors(ChunkedVectors([ROWS[:7], ROWS[7:]])) == fingerprint_vectors(ROWS)
    assert fingerprint_vectors(ROWS.reshape(20, 8)) != fingerprint_vectors(ROWS)
