"""Pieces of HTML that the page is made of; whatever comes from texts or people is shown as text."""

from __future__ import annotations

import base64
import html

from csr_hf.demo.run_view import Document, RunView
from csr_hf.plumbing.foreign import visible

_SHOWN = 220
_LONGEST = 4000
_HUES = 8


def text(value: object) -> str:
    """Escape a text for HTML, and for the templates of gradio; characters that hide or steer are left out."""
    escaped = html.escape(visible(str(value)))
    # gradio reads ${...} and {{...}} in what it shows.
    return escaped.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;").replace("`", "&#96;")


def show_body(document: Document) -> str:
    """Show the picture and the text of a document; of a long text the rest opens on demand."""
    content, shown = document.text or document.id, ""
    if document.thumbnail is not None:
        shown = show_picture(document.thumbnail, content[:200])
    if len(content) <= _SHOWN and "\n" not in content:
        return f'{shown}<p class="csr-text">{text(content)}</p>'
    line = " ".join(content[: 2 * _SHOWN].split())
    head = line[:_SHOWN].rstrip() + (" ..." if len(content) > _SHOWN else "")
    cut = "" if len(content) <= _LONGEST else f" ... ({len(content):,} characters)"
    more = f"<details><summary>whole text</summary><p>{text(content[:_LONGEST])}{cut}</p></details>"
    return f'{shown}<p class="csr-text">{text(head)}</p>{more}'


def show_picture(content: bytes, said: str) -> str:
    """Show a JPEG, and say in words what it is."""
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(content).decode("ascii")}" alt="{text(said)}">'


def show_chip(view: RunView, latent: int, part: float, label: str, hue: int | None) -> str:
    """Show a latent as a button that opens it.

    Args:
        view: the run.
        latent: its number.
        part: length of its bar, from 0 to 1.
        label: what the number behind the name says, in words.
        hue: one of eight colors; None for grey.
    """
    color = "csr-plain" if hue is None else f"csr-h{hue % _HUES}"
    name = text(view.name(latent))
    return (
        f'<button type="button" class="csr-chip {color}" data-latent="{latent}" '
        f'style="--part:{min(max(part, 0), 1):.3f}" title="{text(label)}: open its texts" '
        f'aria-label="{name}, {text(label)}, open its texts"><span>{name}</span></button>'
    )


def show_note(message: object, *, alert: bool = False) -> str:
    """Show a sentence instead of a result; where it is a mistake, screen readers say it at once."""
    role = "alert" if alert else "status"
    return f'<div class="csr csr-note" role="{role}">{text(message)}</div>'


def show_bytes(count: float) -> str:
    """Write bytes with as many digits as they need."""
    return f"{count:,.0f} byte{'' if round(count) == 1 else 's'}"


def show_time(milliseconds: float) -> str:
    """Write milliseconds with two digits."""
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"
