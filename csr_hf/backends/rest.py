"""Requests to engines that speak JSON over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from csr_hf.backends.contract import EngineError, Unavailable

_BUSY = {429, 502, 503, 504}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the credentials to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Rest:
    """A server.

    Args:
        origin: http(s)://host:port.
        path: what all paths begin with, without slashes at the ends.
        user: for basic authentication; empty for none.
        password: of the user.
        api_key: sent as `Authorization: ApiKey`.
        timeout: seconds for a request.
    """

    def __init__(
        self,
        origin: str,
        *,
        path: str = "",
        user: str = "",
        password: str = "",
        api_key: str | None = None,
        timeout: float = 60,
    ) -> None:
        self._base = f"{origin}/{path}".rstrip("/")
        self._timeout = timeout
        self._headers = {"Accept": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"ApiKey {api_key}"
        elif user:
            self._headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        self._opener = urllib.request.build_opener(_Stay)

    def call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Send JSON and read JSON.

        Args:
            method: of HTTP.
            path: beginning with a slash.
            body: None for nothing.
            missing_ok: return None for status 404.

        Raises:
            Unavailable: if the server is busy or out of reach.
            EngineError: for any other status that is not success; its reason is quoted.
        """
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        return self._send(method, path, data, "application/json", missing_ok)

    def call_lines(self, method: str, path: str, lines: Iterable[Any]) -> Any:
        """As `call`, with a body of one JSON value a line."""
        data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        return self._send(method, path, data, "application/x-ndjson", False)

    def _send(self, method: str, path: str, data: bytes | None, kind: str, missing_ok: bool) -> Any:
        headers = self._headers if data is None else {**self._headers, "Content-Type": kind}
        request = urllib.request.Request(self._base + path, data, headers, method=method)
        asked = f"{method} {self._base}{path}"
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            reason = error.read(2000).decode(errors="replace")
            failure = Unavailable if error.code in _BUSY else EngineError
            raise failure(f"{asked}: {error.code} {error.reason}: {_reason(reason)}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(why, http.client.HTTPException | TimeoutError | ConnectionError):
                raise Unavailable(f"{asked}: {why!r}") from error
            raise EngineError(f"{asked}: {why}. Check the host, the port and `tls` in the URL.") from error
        except json.JSONDecodeError as error:
            raise EngineError(f"{asked}: the answer is not JSON. Check the host and the port in the URL.") from error


def _reason(text: str) -> str:
    """What the JSON of an error says; else the text."""
    try:
        error = json.loads(text)["error"]
        return f"{error['type']}: {error['reason']}"
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
