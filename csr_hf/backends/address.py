"""URLs of engines."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}


class Address(NamedTuple):
    """Where an engine is and how to reach it."""

    scheme: str
    path: str
    """Of an embedded engine: the file or folder. Of a server: what follows the host, without slashes."""
    host: str = ""
    port: int | None = None
    user: str = ""
    password: str = ""
    options: dict[str, str] = {}  # noqa: RUF012
    """What follows the question mark."""

    @classmethod
    def parsed(cls, url: str, embedded: Container[str]) -> Address:
        """From a URL.

        Args:
            url: `scheme:path` or `scheme://[user:password@]host[:port][/path][?name=value&...]`.
            embedded: schemes with a path and no host.

        Raises:
            ValueError: for a URL without scheme or host, or an unreadable port; the password is not repeated.
        """
        scheme, colon, rest = url.partition(":")
        if not colon or not scheme:
            raise ValueError(f"`url` ({url!r}) has no scheme, as in milvus-lite:./file.db or qdrant://localhost.")
        if scheme in embedded:
            if not rest or rest.startswith("//"):
                raise ValueError(f"`url` ({url!r}) must name a path on this machine, as in {scheme}:./name.")
            return cls(scheme, rest)
        parts = urlsplit(url)
        shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}"
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"`url` ({shown}) has an unreadable port: {error}.") from error
        if not host:
            raise ValueError(f"`url` ({shown}) names no host, as in {scheme}://localhost.")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(scheme, parts.path.strip("/"), host, port, user, password, options)

    @property
    def secure(self) -> bool:
        """Whether to use TLS: to another machine, unless `?tls=false`; to this one with `?tls=true`.

        Raises:
            ValueError: for another value of `tls`.
        """
        said = self.options.get("tls", "false" if self.host in _THIS_MACHINE else "true")
        if said not in ("true", "false"):
            raise ValueError(f"`tls` ({said!r}) in the URL must be true or false.")
        return said == "true"

    def origin(self, port: int) -> str:
        """`http://host:port` or `https://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port or port}"

    def check_options(self, *known: str) -> None:
        """Refuse options that the engine has not.

        Raises:
            ValueError: for such an option.
        """
        for name in self.options:
            if name not in known:
                raise ValueError(f"`{name}` in the URL is no option of {self.scheme}. It has {', '.join(known)}.")
