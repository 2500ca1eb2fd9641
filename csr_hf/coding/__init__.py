"""Codes at their true size: from embeddings to few bytes a document, and back.

`coder` and `compact_coder` turn embeddings into bytes and back, `fitting` chooses their sizes, `scalar` and
`transform` keep what codes leave. `packing` holds codes as bits in rows of equal size; `bit_rows` makes and reads such
rows on all cores, `bit_reading` and `bit_writing` are its compiled loops. The last four do with numpy and numba alone.
"""
