"""Search sparse codes: inverted lists in numpy arrays, scanned by numba; nothing here imports torch.

`index` has `InvertedIndex`, the only class that other folders need beside `query_encoder.QueryEncoder`.

- A query: `queries` checks it, `rounding` makes integers of it, `routing` chooses blocks, `kernels` (inverted lists)
  or `scanning` (sign bits) find candidates, `rescoring` reranks them. `finding` does so in a segment, `parts` in all.
- A build: `documents` and `building` make lists, `clustering` makes blocks, `sub_blocks` groups inside them, `copies`
  what candidates are reranked by; `segment` holds it all.
- On disk: `storage`. Names of documents: `ids`.
"""
