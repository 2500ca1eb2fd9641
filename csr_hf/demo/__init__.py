"""A page to try the search of a run: hits beside the dense model's, latents with names, two texts compared."""
