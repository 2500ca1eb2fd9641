"""Speed, measured side by side with the rivals in one run."""
