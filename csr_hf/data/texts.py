"""Read what is encoded as it stands: the text of every row or line, none left out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import NamedTuple

from csr_hf.data.arguments import SourceArguments
from csr_hf.data.columns import all_texts, name_rows, row_ids
from csr_hf.data.readers import read_dataset
from csr_hf.data.text_files import read_lines

logger = logging.getLogger(__name__)


class Texts(NamedTuple):
    """A text for each row of a source."""

    texts: list[str]
    """Empty for rows without one."""
    ids: list[str] | None
    """Of the rows, of the same length; None where the source has no column `id`."""


def read_texts(source: str, column: str = "text") -> Texts:
    r"""Read the text of every line of a text file, or of every row of another source, in order.

    Rows without a text are kept, with an empty one, and the log names them. Lines end at "\n", "\r\n" and "\r".

    Args:
        source: a file of texts (.txt, also compressed, or without an ending), "-" for stdin, or what
            `SourceArguments.source` takes.
        column: of the texts, where the source has columns.

    Raises:
        ValueError: for a source that cannot be read or has no rows, a missing column, or a column that holds anything
            but text.
    """
    path = Path(source).expanduser()
    if source == "-":
        texts, ids = _read_stdin(), None
    elif not path.suffix and path.is_file():
        try:
            texts, ids = list(read_lines(path)), None
        except ValueError as error:
            raise ValueError(f"data set {source!r} cannot be read: {error}") from error
    else:
        dataset = read_dataset(SourceArguments(source=source, columns={"text": column}), option="--column")
        texts = all_texts(dataset, column)
        ids = row_ids(dataset, source).to_pylist() if "id" in dataset.column_names else None
    if not texts:
        raise ValueError(f"{'stdin' if source == '-' else source} has no lines: there is nothing to encode.")
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        logger.warning(
            "%s: %s of %s rows have no text and get the code of the empty text: %s",
            source,
            f"{len(empty):,}",
            f"{len(texts):,}",
            name_rows(empty),
        )
    return Texts(texts, ids)


def _read_stdin() -> list[str]:
    try:
        return [line.removesuffix("\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise ValueError(f"stdin is not {error.encoding}. Convert it: iconv -f latin1 -t utf-8") from error
