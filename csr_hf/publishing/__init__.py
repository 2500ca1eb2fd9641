"""One folder that every library of the ecosystem can load."""
