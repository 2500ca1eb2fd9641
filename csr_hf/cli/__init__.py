"""The command line: `csr-hf COMMAND ...`.

`table` lists the commands, `options` what they take, `flags` makes flags of that; `parsing` reads a command line into
an `invocation`, `recipes` makes the recipe of it; `running`, `searching`, `publishing` and `inspecting` do the work;
`report` says what came of it, `output` prints; `main` calls them.
"""
