"""One YAML file = one run = one folder."""
