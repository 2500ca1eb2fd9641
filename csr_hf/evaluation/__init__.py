"""How much of the dense model's quality is kept, at how many bytes: neighbors, baselines, results, plots."""
