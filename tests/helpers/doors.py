"""The codes that every door gives, by the names of sentence-transformers' methods."""

import functools

TASKS = {"encode": None, "encode_query": "query", "encode_document": "document"}


def plain(encoder, way):
    """Return what gives the codes of `SparseEncoder.<way>`: csr_hf's methods of those names rank better and differ."""
    return functools.partial(encoder.encode, task=TASKS[way])
