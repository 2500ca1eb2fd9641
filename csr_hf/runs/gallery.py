"""Write search results as one HTML page with thumbnails, which needs no server and no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from csr_hf.embedding.images import is_image, make_thumbnail
from csr_hf.plumbing.atomic import write_whole
from csr_hf.runs.searcher import Hit

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); list-style: none; }
ol { padding: 0; }
img { max-width: 100%; height: 8rem; object-fit: contain; display: block; }
small { color: #666; overflow-wrap: anywhere; display: block; }
"""


def write_gallery(path: str | Path, answers: Sequence[tuple[str, Sequence[Hit]]], *, open_files: bool = False) -> None:
    """Write a page of hits, with thumbnails embedded.

    Args:
        path: the file to write, whole or not at all.
        answers: pairs of a question (a text or the path of an image) and its hits, the best first.
        open_files: show and link the image file that an id names. Ids of texts are whatever their author wrote.
    """
    sections = "\n".join(_render_section(question, hits, open_files) for question, hits in answers)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>csr-hf search</title>'
        f"<style>{_STYLE}</style></head><body>\n{sections}\n</body></html>\n"
    )
    with write_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _render_section(question: str, hits: Sequence[Hit], open_files: bool) -> str:
    image = _render_image(make_thumbnail(Path(question)), question) if is_image(question) else ""
    items = "\n".join(_render_hit(hit, open_files) for hit in hits) or "<li>nothing found</li>"
    return f"<h2>{html.escape(question)}</h2>{image}\n<ol>\n{items}\n</ol>"


def _render_hit(hit: Hit, open_files: bool) -> str:
    content, name, text = hit.thumbnail, str(hit.id), hit.text or ""
    # Where an image has a thumbnail, its id is not its file.
    is_own = open_files and content is None and not name.startswith("data:") and is_image(name)
    if is_own:
        content = make_thumbnail(Path(name))
    shown = "" if content is None else _render_image(content, text)
    if is_own:
        shown = f'<a href="{html.escape(Path(name).resolve().as_uri())}">{shown}</a>'
    return (
        f"<li>{shown}<b>{hit.score:.3f}</b> {html.escape(text[:200])}"
        f"{f'<small>{html.escape(name)}</small>' if name != text else ''}</li>"
    )


def _render_image(content: bytes, name: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{html.escape(name[:200])}">'
