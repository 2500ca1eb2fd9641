"""What must not leave the machine: access tokens, and where on it things lie."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")
_PASSWORD = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)")
# Folders of an absolute path, but not of an address (https://...) or of a Hub id (user/name).
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s'\"]+[/\\])*(?=[^/\\\s'\"])")


def without_secrets(text: str) -> str:
    """The text with Hub tokens, and names and passwords in addresses, replaced by `***`."""
    return _PASSWORD.sub("***", _TOKEN.sub(r"\1_***", text))


def shareable(value: Any) -> Any:
    """Nested values whose texts hold no secrets, and of absolute paths the last part alone."""
    if isinstance(value, dict):
        return {key: shareable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shareable(entry) for entry in value]
    return _FOLDERS.sub("", without_secrets(value)) if isinstance(value, str) else value
