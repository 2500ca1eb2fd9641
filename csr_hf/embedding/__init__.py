"""Inputs to dense vectors, once."""
