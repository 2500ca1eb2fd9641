"""The map of latents, and the texts of one, as HTML."""

from __future__ import annotations

import re

from csr_hf.demo.latent_map import MOST_BUBBLES, WIDTH, Bubble, Group, LatentMap, Text, find_texts
from csr_hf.demo.markup import show_body, show_chip, show_note, text
from csr_hf.demo.run_view import RunView

_LETTER = 0.55
"""Width of a letter, as a share of the size of the font."""
_OF_GROUPS = 17.0
"""Size of the font of groups' names, as page.css has it."""
_MARGIN = 40.0
"""Of the image beside the circles, which names may use."""
_SMALLEST, _LARGEST = 12.0, 22.0
_TOGETHER = 8
_LETTERS = 22


def show_map(view: RunView, drawn: LatentMap) -> str:
    """Show circles as an SVG image whose circles are buttons; arrow keys go from one to the next."""
    if not drawn.bubbles:
        return show_note("No latent fires: the index holds no documents.")
    bubbles = "".join(_show_bubble(view, bubble, number == 0) for number, bubble in enumerate(drawn.bubbles))
    if view.latents is not None:
        bubbles += "".join(_show_group(_shorten(view.name(group.latent)), group) for group in drawn.groups)
    live = int((view.fires > 0).sum())
    rest = f" The {MOST_BUBBLES} most frequent of {live:,} are drawn." if live > len(drawn.bubbles) else ""
    box = f"{-_MARGIN:.0f} -24 {WIDTH + 2 * _MARGIN:.0f} {drawn.height + 28:.0f}"
    return (
        f'<div class="csr csr-map"><p class="csr-small">The larger a circle, the more documents have the latent; '
        f"similar latents stand together in one color.{rest} Click one, or go with the arrow keys and press Enter."
        f'</p><div class="csr-scroll"><svg viewBox="{box}" role="group" '
        f'aria-label="Map of {len(drawn.bubbles)} latents">{bubbles}</svg></div>'
        f'<p class="csr-over" aria-live="polite">&nbsp;</p></div>'
    )


def _show_group(name: str, group: Group) -> str:
    """Write a name above a group, moved in where it would stand out of the image."""
    half = min(len(name) * _LETTER * _OF_GROUPS / 2, WIDTH / 2)
    x = min(max(group.x, half - _MARGIN), WIDTH + _MARGIN - half)
    return f'<text class="csr-group" x="{x:.0f}" y="{group.y - 7:.0f}" aria-hidden="true">{text(name)}</text>'


def _show_bubble(view: RunView, bubble: Bubble, is_first: bool) -> str:
    name, share = view.name(bubble.latent), f"{view.fires[bubble.latent]:.1%}"
    said = f"{text(name)}, in {share} of the documents"
    return (
        f'<g class="csr-b csr-g{bubble.group % 12}" role="button" tabindex="{0 if is_first else -1}" '
        f'data-latent="{bubble.latent}" aria-label="{said}" transform="translate({bubble.x:.1f},{bubble.y:.1f})">'
        f'<circle r="{bubble.radius:.1f}"/>{_show_label(name, bubble.radius)}<title>{said}</title></g>'
    )


def _show_label(name: str, radius: float) -> str:
    """Write a name into its circle, on up to three lines, where it is readable."""
    words = _shorten(name).split()[:3] or [name]
    longest = max(len(word) for word in words)
    room = 2 * (radius**2 - (radius * 0.3 * (len(words) - 1)) ** 2) ** 0.5 * 0.9
    size = min(_LARGEST, room / (_LETTER * longest), 1.5 * radius / len(words))
    if size < _SMALLEST:
        return ""
    first = -(len(words) - 1) / 2
    lines = "".join(
        f'<tspan x="0" y="{(first + place) * 1.05 * size:.1f}">{text(word)}</tspan>'
        for place, word in enumerate(words)
    )
    return f'<text font-size="{size:.1f}" aria-hidden="true">{lines}</text>'


def _shorten(name: str) -> str:
    """Take the first of the phrases that a name is made of, without the number of one that others have too."""
    first = re.sub(r" #\d+$", "", name).partition(",")[0].strip()
    return first if len(first) <= _LETTERS else f"{first[: _LETTERS - 1].rstrip()}…"


def list_latents(view: RunView) -> list[tuple[str, int]]:
    """List all live latents to pick from, the most frequent first: a label and the number of each."""
    live = [int(latent) for latent in view.fires.nonzero()[0]]
    live.sort(key=lambda latent: (-view.fires[latent], latent))
    return [(f"{view.name(latent)} · {view.fires[latent]:.1%} · {latent}", latent) for latent in live]


def show_latent(view: RunView, latent: int) -> str:
    """Show a latent: its name, how well that predicts, and the documents in which it is active."""
    if not 0 <= latent < len(view.fires):
        return show_note(f"There is no latent {latent}.", alert=True)
    known = None if view.latents is None else view.latents[latent]
    facts = [f"latent {latent}", f"in <b>{view.fires[latent]:.1%}</b> of the documents"]
    together = ""
    if known is not None:
        if known.auc is not None:
            doubt = ", so it says little" if known.is_doubtful else ""
            facts.append(f"its name predicts it with an AUC of <b>{known.auc:.2f}</b>{doubt}")
        chips = "".join(
            show_chip(view, other, strength, f"correlation {strength:.2f}", None)
            for other, strength in known.together[:_TOGETHER]
            if 0 <= other < len(view.fires)
        )
        if chips:
            together = f'<p class="csr-small">Fires with</p><div class="csr-chips">{chips}</div>'
    found = find_texts(view, latent)
    largest = max((each.value for each in found), default=1.0)
    texts = "".join(_show_text(each, largest) for each in found) or "<li>No document has it.</li>"
    return (
        f'<div class="csr csr-latent" role="region" aria-label="Latent"><h2>{text(view.name(latent))}</h2>'
        f'<p class="csr-small">{" &middot; ".join(facts)}</p>{together}'
        f'<p class="csr-small">Where it is strongest, and others over its range</p><ol>{texts}</ol></div>'
    )


def _show_text(found: Text, largest: float) -> str:
    part = found.value / largest if largest else 0.0
    return (
        f'<li class="csr-hit"><div class="csr-line"><meter value="{part:.3f}" aria-hidden="true"></meter>'
        f"<b>{found.value:.2f}</b></div>{show_body(found.document)}</li>"
    )
