"""Open the page of a run on this machine, or in a Space."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.demo.answering import Settings, answer, reranks_of
from csr_hf.demo.page import build_page, import_gradio, read_style
from csr_hf.demo.run_view import RunView
from csr_hf.demo.uploads import MOST_BYTES

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

# What the browser of a visitor may load: from this server alone.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; media-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_WAITING = 1000


@dataclass(frozen=True)
class OpenPage:
    """A page that is served."""

    url: str
    blocks: gr.Blocks

    def wait(self) -> None:
        """Serve it until the process is interrupted."""
        self.blocks.block_thread()

    def close(self) -> None:
        """Stop serving it."""
        self.blocks.close(verbose=False)


def open_page(
    folder: str | Path,
    *,
    title: str = "",
    host: str | None = None,
    port: int | None = None,
    browser: bool = False,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> OpenPage:
    """Serve a page to try the search of a run, and return at once.

    Args:
        folder: output folder of `csr-hf run` or `csr-hf index`.
        title: of the page; default the name of the folder.
        host: address to listen on; default that of GRADIO_SERVER_NAME, else this machine alone.
        port: default that of GRADIO_SERVER_PORT, else the first free one from 7860 on.
        browser: open the page in one.
        device: of the backbone; default the best there is.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ImportError: if gradio is missing.
        ValueError: if the folder is no finished run, or the port is in use.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware

    view = RunView.open(folder, title=title, device=device, trust_remote_code=trust_remote_code)
    page = build_page(view)
    page.queue(max_size=_WAITING)
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    fonts = [gradio.themes.Font(name) for name in system]
    theme = gradio.themes.Default(font=fonts, font_mono=[gradio.themes.Font("monospace")], primary_hue="blue")
    try:
        _, local, _ = page.launch(
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            server_name=host,
            server_port=port,
            inbrowser=browser,
            ssr_mode=False,
            pwa=False,
            max_file_size=MOST_BYTES,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            # Else it gives up where the first answer takes longer than three seconds.
            _frontend=False,
            app_kwargs={"middleware": [Middleware(_OnlyFromHere)]},
            theme=theme,
            css=read_style(),
        )
    except OSError as error:
        raise ValueError(f"the page cannot be served: {error} Choose another --port.") from error
    threading.Thread(target=_warm_up, args=(view,), daemon=True).start()
    return OpenPage(str(local), page)


def serve_space(folder: str | Path, title: str = "") -> None:
    """Serve the page of a Space until it is stopped.

    Args:
        folder: that `csr-hf push --space` wrote.
        title: of the page.
    """
    open_page(folder, title=title, port=int(os.environ.get("GRADIO_SERVER_PORT", "7860"))).wait()


def _warm_up(view: RunView) -> None:
    """Ask once in every way, so that what is compiled or computed once does not hold up the first visitor."""
    question = view.questions[0] if view.questions else "a question"
    for rerank in reranks_of(view):
        try:
            answer(view, question, Settings(view.k, rerank))
        except ValueError as error:
            logger.debug("warming up: %s", error)


class _OnlyFromHere:
    """Tells browsers to load nothing from elsewhere, and to believe the types that are sent."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                headers.append((b"referrer-policy", b"no-referrer"))
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
