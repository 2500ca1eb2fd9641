"""Write search results as one HTML page with thumbnails, which needs no server and no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.embedding.images import is_image, make_thumbnail
from csr_hf.plumbing.atomic import write_whole
from csr_hf.runs.searcher import Hit

if TYPE_CHECKING:
    from csr_hf.explain.why import Match

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); list-style: none; }
ol { padding: 0; }
img { max-width: 100%; height: 8rem; object-fit: contain; display: block; }
small { color: #666; overflow-wrap: anywhere; display: block; }
ul { font-size: 13px; list-style: none; padding: 0; }
section div { display: flex; flex-wrap: wrap; gap: .5rem; }
section img { height: 5rem; }
section p { color: #666; margin: 0; max-width: 20rem; }
"""
_SHARES, _STRONGEST = 3, 6


def write_gallery(
    path: str | Path,
    answers: Sequence[tuple[str, Sequence[Hit]]],
    reasons: Sequence[Sequence[Match]] | None = None,
    find_strongest: Callable[[int, int], Sequence[Hit]] | None = None,
    *,
    open_files: bool = False,
) -> None:
    """Write a page of hits, with thumbnails embedded.

    Args:
        path: the file to write, whole or not at all.
        answers: pairs of a question (a text or the path of an image) and its hits, the best first.
        reasons: why each hit of each question was found, which is then shown beside it.
        find_strongest: finds so many documents in which a latent is strongest: their pictures say what it stands for.
        open_files: show and link the image file that an id names. Ids of texts are whatever their author wrote.
    """
    every = reasons or [[] for _ in answers]
    sections = "\n".join(
        _render_section(question, hits, matches, open_files)
        for (question, hits), matches in zip(answers, every, strict=True)
    )
    if find_strongest is not None:
        sections += _render_latents(every, find_strongest, open_files)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>csr-hf search</title>'
        f"<style>{_STYLE}</style></head><body>\n{sections}\n</body></html>\n"
    )
    with write_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _render_section(question: str, hits: Sequence[Hit], matches: Sequence[Match], open_files: bool) -> str:
    image = _render_image(make_thumbnail(Path(question)), question) if is_image(question) else ""
    shown = [_render_hit(hit, matches[rank] if matches else None, open_files) for rank, hit in enumerate(hits)]
    items = "\n".join(shown) or "<li>nothing found</li>"
    return f"<h2>{html.escape(question)}</h2>{image}\n<ol>\n{items}\n</ol>"


def _render_latents(
    every: Sequence[Sequence[Match]], find_strongest: Callable[[int, int], Sequence[Hit]], open_files: bool
) -> str:
    """Show of each latent that carries a score what it stands for: the documents in which it is strongest."""
    shares = [share for matches in every for match in matches for share in match.largest(_SHARES)]
    found = {share.latent: share.name for share in shares if share.latent is not None}
    items = []
    for latent, name in found.items():
        strongest = find_strongest(latent, _STRONGEST)
        texts = [f"<p>{html.escape((hit.text or '')[:200])}</p>" for hit in strongest]
        shown = "".join(_render_thumbnail(hit, open_files) or text for hit, text in zip(strongest, texts, strict=True))
        items.append(f'<section id="l{latent}"><h3>{html.escape(name)}</h3><div>{shown}</div></section>')
    return f"\n<h2>Latents</h2>\n{''.join(items)}" if items else ""


def find_picture(thumbnail: bytes | None, name: str, *, open_files: bool) -> bytes | None:
    """Return the picture of a document as a JPEG: the one that is kept, or one of the image file that its id names.

    Args:
        thumbnail: the one that is kept; None for none.
        name: the id.
        open_files: whether ids name files. Those of texts are whatever their author wrote.
    """
    return make_thumbnail(Path(name)) if _names_file(thumbnail, name, open_files) else thumbnail


def _names_file(thumbnail: bytes | None, name: str, open_files: bool) -> bool:
    # Where an image has a thumbnail, its id is not its file.
    return open_files and thumbnail is None and not name.startswith("data:") and is_image(name)


def _render_thumbnail(hit: Hit, open_files: bool) -> str:
    content = find_picture(hit.thumbnail, str(hit.id), open_files=open_files)
    return "" if content is None else _render_image(content, hit.text or "")


def _render_match(match: Match | None) -> str:
    """List the latents that carry a score, each with a link to what it stands for."""
    if match is None:
        return ""
    lines = [
        f'<li><a href="#l{share.latent}">{html.escape(share.name)}</a> {share.score:+.3f}</li>'
        if share.latent is not None
        else f"<li>{html.escape(share.name)} {share.score:+.3f}</li>"
        for share in match.summarize(_SHARES)
    ]
    return f"<ul>{''.join(lines)}</ul>"


def _render_hit(hit: Hit, match: Match | None, open_files: bool) -> str:
    name, text = str(hit.id), hit.text or ""
    shown = _render_thumbnail(hit, open_files)
    if _names_file(hit.thumbnail, name, open_files):
        shown = f'<a href="{html.escape(Path(name).resolve().as_uri())}">{shown}</a>'
    return (
        f"<li>{shown}<b>{hit.score:.3f}</b> {html.escape(text[:200])}"
        f"{f'<small>{html.escape(name)}</small>' if name != text else ''}{_render_match(match)}</li>"
    )


def _render_image(content: bytes, name: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{html.escape(name[:200])}">'
