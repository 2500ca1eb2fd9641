"""The command line: `csr-hf COMMAND ...`."""
