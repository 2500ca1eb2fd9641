"""Read what a stranger may have written: text that is shown, and YAML that is small, flat and without aliases."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

_LONGEST = 256 << 10
_DEEPEST = 20
_SHOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "\\[", "]": "\\]", "`": "'"}
_SPECIAL = re.compile("[" + re.escape("".join(_SHOWN)) + "]")
_ENTITY = re.compile(r"&(?!(?:lt|gt|amp);)")
# Control and format characters, surrogates: those of terminals' escape sequences, and of text that runs backwards.
_HIDDEN = ("Cc", "Cf", "Cs")


def visible(text: str) -> str:
    """Return a text without characters that steer a terminal or hide; its lines stay."""
    if text.isprintable():
        return text
    # The joiners inside of emoji and of some alphabets stay.
    kept = "\n\t\u200c\u200d"
    return "".join(char for char in text if char in kept or unicodedata.category(char) not in _HIDDEN)


def one_line(text: str) -> str:
    """Return a text on one line, without characters that steer a terminal or hide."""
    # What is removed may stand between spaces.
    return " ".join(visible(" ".join(text.split())).split())


def inline(value: Any) -> Any:
    """Make every text in nested values safe to stand in a line or a table of Markdown: no HTML, links or code.

    Args:
        value: as JSON holds it.
    """
    if isinstance(value, dict):
        return {inline(key): inline(each) for key, each in value.items()}
    if isinstance(value, list):
        return [inline(each) for each in value]
    if not isinstance(value, str):
        return value
    # What was made safe before stays as it is.
    plain = re.sub(r"\\([|\[\]])", r"\1", one_line(value))
    return _SPECIAL.sub(lambda found: _replace(found, plain), plain)


def _replace(found: re.Match[str], text: str) -> str:
    is_entity = found[0] == "&" and not _ENTITY.match(text, found.start())
    return "&" if is_entity else _SHOWN[found[0]]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that somebody else may have written.

    Raises:
        ValueError: if it is longer than 256 kB, no YAML, no mapping, nested deeply, or uses aliases, by which a few
            bytes can stand for gigabytes.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it uses aliases")
            self.depth += 1
            if self.depth > _DEEPEST:
                raise ValueError("it is nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} bytes")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if not isinstance(content, dict | None):
            raise ValueError("it is no mapping")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = one_line(str(error))[:200]
        raise ValueError(f"{path} cannot be read ({reason}). Remove it, or write it again.") from error
    return content or {}


def read_json(path: Path) -> Any:
    """Read a JSON file that somebody else may have written.

    Raises:
        ValueError: if it is no JSON, or nested deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply. Download or save it again.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {one_line(str(error))[:200]}. Download or save it again.") from error
