"""What the commands print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from csr_hf.plumbing.foreign import one_line, visible

if TYPE_CHECKING:
    from rich.console import Console

    from csr_hf.evaluation.results import Results
    from csr_hf.explain.latents import Latent, Latents
    from csr_hf.explain.why import Match
    from csr_hf.publishing.export import Exported
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.searcher import Hit

_INDENT = "     "
_MORE = " ..."
_SHARES = 5


def print_line(line: str) -> None:
    """Print a line as it is, whatever the width of the terminal."""
    _console().print(visible(line), soft_wrap=True)


def print_tables(results: Results | None) -> None:
    """Print the tables of results; in files and pipes with lines of plain characters."""
    from rich.box import ASCII

    console = _console()
    for table in results.to_tables() if results else ():
        if not console.is_terminal:
            table.box = ASCII
        console.print(table)


def print_hits(
    question: str,
    hits: Sequence[Hit],
    fields: Mapping[str, str],
    milliseconds: float | None = None,
    reasons: Sequence[Match] = (),
) -> None:
    """Print a question and the documents that were found for it, each text on one line of the terminal.

    Args:
        question: as it was asked.
        hits: the best first.
        fields: what to show beside the id, name -> column; names are shown where there are several.
        milliseconds: that the search took.
        reasons: why each was found; nothing of it is shown without.
    """
    from rich.text import Text

    console = _console()
    heading = Text(f"\n{visible(question)}", style="bold")
    if milliseconds is not None:
        heading.append(f"  {milliseconds:.0f} ms", style="not bold dim")
    console.print(heading, soft_wrap=True)
    if not hits:
        console.print("  nothing found")
    for rank, hit in enumerate(hits, 1):
        console.print(f"  {rank}. {hit.score:.3f}  {one_line(str(hit.id))}", soft_wrap=True)
        for name, column in fields.items():
            value = hit.read(column)
            line = ("" if value is None else str(value)) if len(fields) == 1 else f"{name}: {value}"
            text = shorten(line, console.width - len(_INDENT))
            console.print(_INDENT + text, style="dim", soft_wrap=True)
        for share in reasons[rank - 1].summarize(_SHARES) if reasons else ():
            console.print(f"{_INDENT}{share.score:+.3f}  {one_line(share.name)}", soft_wrap=True)


def print_latents(latents: Latents, shown: Sequence[Latent]) -> None:
    """Print latents as a table, and how well their names predict; in files and pipes with plain characters.

    Args:
        latents: of a head.
        shown: those to print.
    """
    from rich.box import ASCII, HEAVY_HEAD
    from rich.table import Table

    console = _console()
    box = HEAVY_HEAD if console.is_terminal else ASCII
    table = Table(box=box, title=f"{len(latents.live):,} latents in {latents.texts:,} texts")
    for name in ("latent", "name", "fires", "AUC", "by words"):
        table.add_column(name, justify="left" if name == "name" else "right", overflow="fold")
    for latent in shown:
        name = latents.name(latent.number) + (" ?" if latent.is_doubtful else "")
        table.add_row(
            str(latent.number), one_line(name), f"{latent.fires:.2%}", *map(_show_auc, (latent.auc, latent.auc_words))
        )
    console.print(table)
    scores = Table(box=box, title="what names predict")
    for name in ("names", "by", "strongest", "median AUC", "at least 0.8"):
        scores.add_column(name, justify="left" if name in ("names", "by") else "right")
    for row in latents.scores:
        median, most = (row[key] for key in ("median", "at_least_0.8"))
        scores.add_row(
            one_line(str(row["names"])),
            one_line(str(row["by"])),
            f"{row['share']:.0%}",
            _show_auc(median),
            _show_auc(most),
        )
    console.print(scores)


def _show_auc(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def shorten(text: str, width: int) -> str:
    """Put a text on one line of at most `width` cells of a terminal; it ends at a word, and says that more follows."""
    from rich.cells import cell_len, set_cell_size

    line = one_line(text)
    if cell_len(line) <= width:
        return line
    kept = set_cell_size(line, max(width - len(_MORE), 1)).rstrip()
    whole = kept if line[len(kept) :].startswith(" ") else kept.rpartition(" ")[0]
    # Some languages write no spaces, and some words are longer than a line.
    return (whole if len(whole) > len(kept) // 2 else kept) + _MORE


def python_search(folder: RunFolder) -> str:
    """Return what searches a run of embeddings in Python."""
    return f'csr_hf.SearchIndex.load("{folder.path}", texts=False).search(embeddings)  # in Python'


def print_export(exported: Exported) -> None:
    """Print the layout of an exported head, and what the user should know of it."""
    for line in [f"layout     {exported.layout}: {exported.reason}", *exported.notes]:
        print_line(line)


def print_doors(name: str, exported: Exported, revision: str | None = None) -> None:
    """Print how each library loads a published head, one line for each."""
    at, module = f', revision="{revision}"' if revision else "", exported.module
    trust = ", trust_remote_code=True" if exported.remote_code else ""
    whole, alone = f'SparseEncoder("{name}"{at})', f'{module}.load("{name}", "{module}"{at})'
    doors = {
        f'CSREncoder.from_pretrained("{name}"{at}{trust})': "csr_hf",
        whole if exported.layout == "full" else alone: "sentence-transformers",
        f'AutoModel.from_pretrained("{name}"{at}, trust_remote_code=True)': "transformers",
    }
    width = max(map(len, doors))
    for call, library in doors.items():
        print_line(f"  {call:{width}}  # {library}")


def typed_questions() -> Iterator[str]:
    """Read lines from the terminal or a pipe, up to an empty one."""
    from rich.text import Text

    console = _console()
    while True:
        try:
            line = console.input(Text("> ", style="bold") if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _console() -> Console:
    """Make a console that prints what users and documents say as it is: `docs[old].csv`, `a[:x:2]`."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)
