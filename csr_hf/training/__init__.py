"""Train a head on cached embeddings.

`arguments` has the settings and presets, `trainer` the loop, `rows` the data and its order, `batches` what a step
takes, `loss` the forward pass, `objectives` the terms with their equations. `sparse_ops` and `cpu_kernels` make a step
fast. `initialization`, `head_metrics`, `checkpoints` and `tracking` are what a run needs besides the steps.
"""
