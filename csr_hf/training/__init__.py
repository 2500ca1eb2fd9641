"""Embeddings in, a trained head out: settings, objectives, the kernels that make them fast, and the loop."""
