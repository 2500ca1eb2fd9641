"""One YAML file = one run = one folder.

`recipe` reads the file, `pipeline` embeds, trains, measures (`held_out`) and indexes, `folder` knows the names of what
is written. `searcher`, `mteb_benchmark`, `describe` and `gallery` work on finished runs, `sweep` makes many.
"""
