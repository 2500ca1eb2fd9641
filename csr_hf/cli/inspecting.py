"""The commands that look at what is there, and explain it: info, cache, glossary, completion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import print_line
from csr_hf.cli.report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csr_hf.cli.invocation import Invocation
    from csr_hf.embedding.cache_folders import CacheFolder

_FILE_ARGUMENTS = ("recipe", "run", "model", "path", "input", "output", "source", "corpus", "html", "name")


def info(called: Invocation) -> Report:
    """Describe what a path holds."""
    from csr_hf.runs.describe import examine

    described = examine(called.options[0].path)
    return Report(described.facts, lambda: _print_lines(described.lines))


def cache(called: Invocation) -> Report:
    """List embedding caches, and remove them where the user says so."""
    from csr_hf.embedding.cache_folders import find_caches

    (options,) = called.options
    found = find_caches(options.cache_dir)
    if options.name:
        # A path of a cache names it as well.
        names = {Path(name).name for name in options.name}
        unknown = names - {one.folder.name for one in found}
        if unknown:
            raise ValueError(f"{options.cache_dir} has no cache {min(unknown)}. `csr-hf cache` lists what there is.")
        found = [one for one in found if one.folder.name in names]
    if options.older_than is not None:
        found = [one for one in found if one.days > options.older_than]
    lines = [_describe_cache(one) for one in found] or [f"no caches in {options.cache_dir}"]
    size = sum(one.size for one in found)
    data: dict[str, Any] = {"caches": [_cache_data(one) for one in found], "bytes": size}
    if not options.clear:
        return Report(data, lambda: _print_lines(lines), [f"{size / 1e6:,.1f} MB"] if found else [])
    _print_lines([f"removing {line}" for line in lines] if found else lines)
    left = [str(one.folder) for one in found if not one.remove()]
    kept = [f"{folder} stays: it holds files that csr_hf did not write" for folder in left]
    return Report({**data, "kept": left}, lambda: _print_lines([*kept, f"{size / 1e6:,.1f} MB are free again"]))


def glossary(called: Invocation) -> Report:
    """Explain the words of the command line."""
    from csr_hf.cli.glossary import GLOSSARY
    from csr_hf.plumbing.settings import suggest

    (options,) = called.options
    for word in options.word:
        if word not in GLOSSARY:
            raise ValueError(f"{word!r} is not in the glossary. {suggest(word, list(GLOSSARY))}")
    chosen = {word: GLOSSARY[word] for word in options.word or GLOSSARY}
    width = max(map(len, chosen))
    return Report(chosen, lambda: _print_lines([f"{word:{width}}  {text}" for word, text in chosen.items()]))


def completion(called: Invocation) -> Report:
    """Print a script that completes commands and flags in a shell."""
    import shtab

    (options,) = called.options
    script = shtab.complete(_build_whole_parser(), options.shell)
    return Report({"shell": options.shell, "script": script}, lambda: print_line(script))


def _build_whole_parser() -> argparse.ArgumentParser:
    """Build one parser of all commands, which shtab reads."""
    import shtab

    from csr_hf.cli.parsing import build_parser
    from csr_hf.cli.table import COMMANDS

    whole = argparse.ArgumentParser(prog="csr-hf")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers()
    for name, command in COMMANDS.items():
        parser = build_parser(name, command, [])
        for action in parser._actions:
            if action.dest in _FILE_ARGUMENTS or action.dest.endswith(("_dir", "name_or_path", "data.source")):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        commands.add_parser(name, help=command.summary, parents=[parser], add_help=False, conflict_handler="resolve")
    return whole


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print_line(line)


def _describe_cache(one: CacheFolder) -> str:
    what = f"{one.rows:,} rows, {one.backbone}" if one.finished else "unfinished"
    return f"{one.folder}  {one.size / 1e6:,.1f} MB, {one.days:.0f} days old: {what}"


def _cache_data(one: CacheFolder) -> dict[str, Any]:
    return {
        "folder": one.folder,
        "backbone": one.backbone,
        "rows": one.rows,
        "bytes": one.size,
        "days": one.days,
        "finished": one.finished,
    }
