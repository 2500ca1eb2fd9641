"""What latents stand for: their names, why two things match, and searches steered by them."""
