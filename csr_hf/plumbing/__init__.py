"""What every part may use: files written whole, threads, jit settings, redaction, processes."""
