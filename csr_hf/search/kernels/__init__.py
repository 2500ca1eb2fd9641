"""Compiled loops of a search.

`queries` makes tables, `probing` chooses partitions, `scan` finds candidates in them, `rerank` scores these by what is
stored, `group` does all of it; `lists` ranks by codes alone. `products` and `dots` multiply queries in integers,
`topk` keeps the best, `simd` has instructions of the processor.
"""
