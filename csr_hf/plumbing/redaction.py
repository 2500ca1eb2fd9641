"""Removes what must not leave the machine: access tokens, passwords, and folders of absolute paths."""

from __future__ import annotations

import re
import shlex
from typing import Any

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf|api_org)_\w{8,}[\w.-]*")
_PASSWORD = re.compile(r"(?<=://)[^\s'\"]+(?=@)")
# Of libpq's parameters, of addresses, headers, JSON and flags: what stands behind these names.
_SECRET = r"[\w.-]*(?:password|passwd|passfile|pwd|secret|token|api[-_]?key|access[-_]?key|authorization)"
_NAMED = re.compile(
    rf"""(?i)(["']?\b{_SECRET}["']?\s*[=:]\s*)(["']?(?:bearer|basic|apikey)\s+)?(?!hf_\*|api_org_\*)("[^"]*"|'[^']*'|[^\s&;,'"}}\])]+)"""
)
_FLAG = re.compile(rf"""(?i)(--{_SECRET}\s+)(?!hf_\*|api_org_\*)("[^"]*"|'[^']*'|[^\s'"-][^\s'"]*)""")
_PATH = re.compile(r"(?:file://)?(?:~|/|[A-Za-z]:[/\\]|\.\.?[/\\])")
# Folders of an absolute path, but not of an address (https://...) or of a Hub id (user/name).
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])*(?=[^/\\\s'\"])")


def without_secrets(text: str) -> str:
    """Replace Hub tokens, names and passwords in addresses, and what stands behind names of secrets, by `***`."""
    text = _PASSWORD.sub("***", _TOKEN.sub(r"\1_***", text))
    text = _FLAG.sub(lambda found: f"{found[1]}***", text)
    return _NAMED.sub(lambda found: f"{found[1]}{found[2] or ''}***", text)


def shareable(value: Any) -> Any:
    """Remove secrets from the texts in nested values, and shorten absolute paths to their last part."""
    if isinstance(value, dict):
        return {key: _command(entry) if key == "command" else shareable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shareable(entry) for entry in value]
    if not isinstance(value, str):
        return value
    return _FOLDERS.sub("", _last_part(without_secrets(value)))


def _command(line: Any) -> Any:
    """Shorten the paths of a command line, argument by argument: they may contain spaces."""
    try:
        arguments = shlex.split(line)
    except (ValueError, TypeError, AttributeError):
        return shareable(line)
    return " ".join(shlex.quote(shareable(argument)) for argument in arguments)


def _last_part(text: str) -> str:
    """Shorten a text that is a path, or a flag with one (`--flag=/path`), to the last part of the path."""
    flag, equals, path = text.partition("=") if text.startswith("--") else ("", "", text)
    if not _PATH.match(path) or "\n" in path:
        return text
    return flag + equals + re.split(r"[/\\]", path.rstrip("/\\"))[-1]
