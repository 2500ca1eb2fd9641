"""From texts to a trained head: data -> embeddings (once, cached) -> objectives -> trainer."""
