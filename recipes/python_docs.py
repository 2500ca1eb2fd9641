"""Write a corpus that every machine has: docstrings of the standard library and of installed scientific packages.

    python recipes/python_docs.py data/python_docs.parquet
    python recipes/python_docs.py data/python_docs.parquet --limit 100000

Each row is a docstring in two parts, its first paragraph (`anchor`) and the rest (`positive`), with the qualified name
of what it documents (`id`). Nothing is imported or downloaded, sources are parsed where they are installed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = (
    "accelerate", "datasets", "huggingface_hub", "joblib", "matplotlib", "mpmath", "networkx", "numba", "numpy",
    "pandas", "PIL", "pyarrow", "requests", "rich", "scipy", "sentence_transformers", "setuptools", "sklearn", "sympy",
    "torch", "tqdm", "transformers", "yaml",
)  # fmt: skip
"""Packages that are read where they are installed, besides the standard library."""

_SKIPPED = {"test", "tests", "testing", "site-packages", "_vendor", "__pycache__", "idlelib", "lib2to3", "distutils"}
_SUMMARY_CHARACTERS = range(20, 201)
_BODY_CHARACTERS = 60
# Parsing takes the time. A file with less documentation than one docstring in so many bytes is left out.
_BYTES_PER_DOCSTRING = 2_500
_SUMMARY_WORDS = 4


class DocPair(NamedTuple):
    """A docstring in two parts."""

    name: str
    """Qualified name of what it documents."""
    summary: str
    """Its first paragraph, on one line."""
    body: str
    """All that follows."""


def read_docstrings(limit: int | None = None) -> list[DocPair]:
    """Read docstrings as (summary, body) pairs, without trivial ones and without repeated summaries or bodies.

    The standard library comes first, then the packages' files in an order that depends on their names alone; so a
    smaller limit gives a prefix of what a larger one gives. Nothing is imported, the sources are only parsed.

    Args:
        limit: stop at this many pairs; None reads everything (some 20,000 with the packages csr_hf installs).
    """
    pairs: list[DocPair] = []
    seen: set[str] = set()
    for path, module in _sources():
        for pair in _pairs_of_file(path, module):
            keys = {_normalize(pair.summary), _normalize(pair.body)}
            if keys & seen:
                continue
            seen |= keys
            pairs.append(pair)
            if len(pairs) == limit:
                return pairs
    return pairs


def _sources() -> Iterator[tuple[Path, str]]:
    """Source files with their module names."""
    standard = Path(sysconfig.get_paths()["stdlib"])
    yield from _files(standard, "", sorted(sys.stdlib_module_names))
    files = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations)))
            files += list(_files(folder.parent, "", [folder.name]))
    yield from sorted(files, key=lambda entry: hashlib.blake2b(entry[1].encode(), digest_size=8).digest())


def _files(root: Path, prefix: str, names: list[str]) -> Iterator[tuple[Path, str]]:
    for name in names:
        path = root / name
        if name in _SKIPPED:
            continue
        if path.is_dir():
            inner = sorted(entry.name.removesuffix(".py") for entry in path.iterdir() if _is_source(entry))
            yield from _files(path, f"{prefix}{name}.", inner)
        elif path.with_suffix(".py").is_file():
            yield path.with_suffix(".py"), (prefix + name).removesuffix(".__init__")


def _is_source(path: Path) -> bool:
    return path.suffix == ".py" or path.is_dir()


def _pairs_of_file(path: Path, module: str) -> Iterator[DocPair]:
    source = path.read_bytes()
    if source.count(b'"""') * _BYTES_PER_DOCSTRING < 2 * len(source):
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        # Some packages ship templates and files for other Python versions.
        return
    yield from pairs_of_node(tree, module)


def pairs_of_node(node: ast.AST, name: str) -> Iterator[DocPair]:
    """Yield the docstrings of a module or class and of what it defines, as pairs."""
    for child in [node, *_definitions(node)]:
        child_name = name if child is node else f"{name}.{child.name}"  # type: ignore[attr-defined]
        if child is not node and isinstance(child, ast.ClassDef):
            yield from pairs_of_node(child, child_name)
            continue
        docstring = ast.get_docstring(child, clean=False)  # type: ignore[arg-type]
        pair = _split(child_name, docstring) if docstring else None
        if pair is not None:
            yield pair


def _definitions(node: ast.AST) -> list[ast.AST]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    children = [child for child in getattr(node, "body", []) if isinstance(child, kinds)]
    return [child for child in children if not child.name.startswith("_") or child.name == "__init__"]


def _split(name: str, docstring: str) -> DocPair | None:
    """Summary and body; None for what is too short to mean something."""
    first, _, rest = inspect.cleandoc(docstring).partition("\n\n")
    summary, body = " ".join(first.split()), rest.strip()
    too_short = len(summary.split()) < _SUMMARY_WORDS or len(body) < _BODY_CHARACTERS
    if too_short or len(summary) not in _SUMMARY_CHARACTERS or not summary[0].isalpha():
        return None
    return DocPair(name, summary, body)


def _normalize(text: str) -> str:
    return re.sub(r"\W+", " ", text[:500]).strip().lower()


def write_corpus(path: Path, limit: int | None) -> int:
    """Write the corpus as a parquet file with the columns `id`, `anchor` and `positive`.

    Returns:
        Number of rows.
    """
    from datasets import Dataset

    from csr_hf.plumbing.atomic import write_whole

    names, summaries, bodies = zip(*read_docstrings(limit), strict=True)
    rows = Dataset.from_dict({"id": list(names), "anchor": list(summaries), "positive": list(bodies)})
    with write_whole(path) as temporary:
        rows.to_parquet(str(temporary))
    return len(rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="parquet file to write")
    parser.add_argument("--limit", type=int, default=4000, help="rows at most (default: %(default)s)")
    options = parser.parse_args()
    count = write_corpus(options.output, options.limit)
    sys.stdout.write(f"{count:,} docstrings in {options.output}\n")


if __name__ == "__main__":
    main()
