"""The words of the command line."""

from csr_hf.cli.glossary import GLOSSARY
from regions.markdown import table


def glossary() -> str:
    """List every word and what it means."""
    rows = [[word, text] for word, text in GLOSSARY.items()]
    return table(["word", "what it means"], rows, left=2)


REGIONS = {"glossary": glossary}
