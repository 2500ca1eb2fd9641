"""Exact search over sparse codes: inverted lists in numpy arrays, scanned by numba."""
