"""URLs of backends."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from csr_hf.plumbing.settings import suggest

EMBEDDED = ("milvus-lite", "qdrant-local")
"""Schemes that are followed by a path on this machine instead of a host."""
_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}


class Address(NamedTuple):
    """Where a backend is, and how to reach it."""

    scheme: str
    path: str
    """File or folder of an embedded backend; what follows the host of a server, without slashes at the ends."""
    host: str = ""
    port: int | None = None
    user: str = ""
    password: str = ""
    options: dict[str, str] = {}  # noqa: RUF012
    """What follows the question mark."""

    @classmethod
    def parse(cls, url: str, *known: str) -> Address:
        """Parse a URL.

        Args:
            url: `scheme:path` or `scheme://[user:password@]host[:port][/path][?name=value&...]`.
            *known: names that may follow the question mark, besides `tls`.

        Raises:
            ValueError: for a URL without host or path, an unreadable host or port, or an unknown option. The message
                does not repeat the password.
        """
        scheme, _, rest = url.partition(":")
        if scheme in EMBEDDED:
            if not rest or rest.startswith("//"):
                raise ValueError(f"`url` ({scheme}:...) must name a path on this machine, as in {scheme}:./name.")
            return cls(scheme, rest)
        shown = f"{scheme}://{_find_host(rest)}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            # The text of the error may hold a part of the password.
            raise ValueError(
                f"`url` ({shown}) has an unreadable host or port. A port is a number; / ? # @ : [ ] in a password are "
                "written as %2F %3F %23 %40 %3A %5B %5D."
            ) from None
        if not host:
            raise ValueError(f"`url` ({shown}) names no host, as in {scheme}://localhost.")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in options:
            if name not in ("tls", *known):
                advice = suggest(name, ("tls", *known))
                raise ValueError(f"`{name}` in the URL is no option of {scheme}. {advice}")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(scheme, parts.path.strip("/"), host, port, user, password, options)

    @property
    def secure(self) -> bool:
        """Whether to use TLS: by default for another machine, not for this one; `tls` in the URL decides.

        Raises:
            ValueError: for another value of `tls` than true and false.
        """
        tls = self.options.get("tls", "false" if self.host in _THIS_MACHINE else "true")
        if tls not in ("true", "false"):
            raise ValueError(f"`tls` ({tls!r}) in the URL must be true or false.")
        return tls == "true"

    def origin(self, port: int) -> str:
        """Return `http(s)://host:port`, with a default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port or port}"


def _find_host(rest: str) -> str:
    """Find what a message may show of a URL behind its scheme, however it is written: no password, no option."""
    before, _, behind = rest.lstrip("/").rpartition("@")
    # Behind a question mark, an @ may stand in a password of either kind.
    return "..." if "?" in before else re.split("[/?#]", behind, maxsplit=1)[0]
