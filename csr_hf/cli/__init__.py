"""The command line: `csr-hf COMMAND ...`.

`table` lists the commands, `options` what they take, `flags` makes flags of that; `main` reads a command line into an
`invocation`, `recipes` makes the recipe of it, `commands` does the work, `output` prints.
"""
