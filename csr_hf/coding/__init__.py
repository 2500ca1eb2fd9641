"""Codes at their true size: from embeddings to few bytes a document, and back.

`packing` holds codes as bits in rows of equal size; `bit_rows` makes and reads such rows on all cores, `bit_reading`
and `bit_writing` are its compiled loops. All four do with numpy and numba alone.
"""
