"""Write the tables and figures of the pages from results files.

    python recipes/render.py
    python recipes/render.py --check

Pages are Markdown. What comes from a results file stands between comments, which no reader sees:

    <!-- table: NAME -->               a table or a paragraph, on lines of its own
    ... <!-- value: NAME -->0.85<!-- end --> ...     a figure inside a sentence

A table ends with `<!-- end -->` too. `regions/` says what each name stands for. All else on a page is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_REGION = re.compile(r"<!-- (?P<kind>table|value): (?P<name>[\w-]+) -->(?P<content>.*?)<!-- end -->", re.DOTALL)
_MARK = re.compile(r"<!-- (?:(?:table|value): .*?|end) -->")

Regions = Mapping[str, Callable[[], str]]
"""Name of a region: function that writes its text."""


def pages(root: Path = ROOT) -> list[Path]:
    """List the pages of the project, all of which may hold regions."""
    return [root / "README.md", root / "csr_hf" / "README.md", *sorted((root / "recipes").glob("*.md"))]


def render(text: str, regions: Regions) -> str:
    """Fill every region of a page.

    Args:
        text: the page.
        regions: what the names stand for.

    Returns:
        The page with new text in its regions; nothing else changes.

    Raises:
        ValueError: for an unknown name, a region that does not end, an end without a region, or a value at the
            beginning of a line, where Markdown would take the comment for a paragraph.
    """

    def fill(found: re.Match[str]) -> str:
        kind, name = found["kind"], found["name"]
        if name not in regions:
            raise ValueError(f"region {name!r} is unknown. Known: {', '.join(sorted(regions))}.")
        if kind == "value" and text[: found.start()].rpartition("\n")[2].strip() == "":
            raise ValueError(f"value {name!r} begins a line. Put a word before it.")
        content = regions[name]().strip("\n")
        content = f"\n\n{content}\n\n" if kind == "table" else content
        return f"<!-- {kind}: {name} -->{content}<!-- end -->"

    stray = _MARK.search(_REGION.sub("", text))
    nested = next((mark[0] for found in _REGION.finditer(text) if (mark := _MARK.search(found["content"]))), None)
    if stray or nested:
        raise ValueError(f"{nested or stray[0]} stands alone. A region begins with its name and has one <!-- end -->.")
    return _REGION.sub(fill, text)


def render_pages(paths: Sequence[Path], regions: Regions, *, check: bool = False) -> list[Path]:
    """Fill the regions of pages, and write those that change.

    Args:
        paths: the pages.
        regions: what the names stand for.
        check: write nothing.

    Returns:
        The pages that were not up to date.

    Raises:
        ValueError: as `render` does, naming the page.
    """
    stale = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        try:
            rendered = render(text, regions)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if rendered != text:
            stale.append(path)
            if not check:
                path.write_text(rendered, encoding="utf-8")
    return stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the pages of the project; 1 if `--check` finds pages that are not up to date."""
    from regions import REGIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is not up to date")
    check = parser.parse_args(arguments).check
    try:
        stale = render_pages(pages(), REGIONS, check=check)
    except ValueError as error:
        sys.stderr.write(f"render.py: error: {error}\n")
        return 2
    for path in stale:
        sys.stdout.write(f"{'not up to date' if check else 'written'}: {path.relative_to(ROOT)}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
