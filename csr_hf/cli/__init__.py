"""The command line: `csr-hf COMMAND ...`.

`table` lists the commands, `options` what they take, `flags` makes flags of that, `commands` does the work, `output`
prints.
"""
