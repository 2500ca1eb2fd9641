"""Search embeddings as packed codes: a dense query in, the nearest documents out; nothing here imports torch.

`index` has `InvertedIndex`, `params` how it is searched.

- A query: `query_encoder` checks it and multiplies it with all that the index knows, `searcher` passes it to all
  segments on several threads, `kernels.group` searches one. `code_lists` ranks by codes alone.
- A build: `build.partitions` makes partitions, `build.signs` what the scan reads, `segment` puts it all together, and
  `build.tuning` measures how many partitions are to be visited.
- On disk: `storage`, `manifest`, `segment_files`. Names of documents: `doc_ids`; texts and metadata: `documents`.
"""
