"""Answers and comparisons as HTML."""

from __future__ import annotations

from csr_hf.demo.answering import Answer, Found, Settings, Side
from csr_hf.demo.comparing import Comparison
from csr_hf.demo.markup import show_body, show_bytes, show_chip, show_note, show_picture, show_time, text
from csr_hf.demo.run_view import LONGEST, RunView

_CUT = f"Only the first {LONGEST:,} characters are read."
_ORDERS = {
    "none": "the {k} largest latents of each code",
    "codes": "all that is stored, for the 100 best by {k} latents",
    "float16": "float16 embeddings, for the 100 best by {k} latents",
    "index": "the search of the index, which visits the nearest partitions",
}


def show_answer(view: RunView, found: Answer, chosen: Settings) -> str:
    """Show an answer: what the question asks for, and the hits of both sides with what they cost."""
    if not found.sparse.hits:
        is_narrowed = bool(chosen.must and view.size)
        reason = "no document has all of these latents" if is_narrowed else "the index holds no documents"
        return show_note(f"Nothing found: {reason}.")
    hues = {latent: number for number, latent in enumerate(found.asked)}
    largest = max(found.asked.values(), default=1.0)
    asked = "".join(
        show_chip(view, latent, value / largest, f"value {value:.2f}", hues[latent])
        for latent, value in found.asked.items()
    )
    cut = f'<p class="csr-small" role="status">{_CUT}</p>' if found.is_cut else ""
    sent, kind = "", "question"
    if found.picture is not None:
        sent, kind = show_picture(found.picture, "the picture that was sent"), "picture"
    heading = (
        f'<section class="csr-asked" aria-label="Latents of the question">{sent}<h3>The {kind} fires</h3>'
        f'<div class="csr-chips">{asked}</div></section>'
    )
    order = _ORDERS[chosen.rerank].format(k=min(chosen.k, view.k))
    most = found.sparse.bytes if found.dense is None else max(found.sparse.bytes, found.dense.bytes)
    names = ("csr_hf", None if found.dense is None else "dense")
    left = _show_side(view, found.sparse, (*names, f"Ranked by {order}."), hues, most)
    right = ""
    if found.dense is not None:
        right = _show_side(view, found.dense, ("dense", "csr_hf", "Ranked by the embeddings of the model."), {}, most)
    return (
        f'<div class="csr csr-answer">{cut}{_show_summary(found)}{heading}'
        f'<div class="csr-sides{"" if right else " csr-alone"}">{left}{right}</div></div>'
    )


def _show_summary(found: Answer) -> str:
    """Show in one line what both sides have in common, and what embedding the question took."""
    spent = f"{show_time(found.embedding)} to embed the question, which both need"
    if found.dense is None:
        return f'<p class="csr-sum" role="status">{spent}</p>'
    count = len(found.dense.hits)
    smaller = found.dense.bytes / found.sparse.bytes
    return (
        f'<p class="csr-sum" role="status"><b>{found.common} of {count}</b> hits in common, '
        f"<b>{smaller:.0f}&times;</b> fewer bytes &middot; {spent}</p>"
    )


def _show_side(
    view: RunView, side: Side, names: tuple[str, str | None, str], hues: dict[int, int], most: float
) -> str:
    """Show the hits of one side.

    Args:
        view: the run.
        side: its hits.
        names: of this side, of the other one if there is one, and a sentence on the order.
        hues: colors of latents.
        most: bytes of the larger side.
    """
    name, other, order = names
    hits = "".join(_show_hit(view, hit, rank, hues, other) for rank, hit in enumerate(side.hits, 1))
    return (
        f'<section class="csr-side" aria-label="{name}"><header><h3>{name}</h3>'
        f'<p class="csr-cost"><b>{show_bytes(side.bytes)}</b> a document <span>&middot;</span> '
        f"<b>{show_time(side.milliseconds)}</b></p>"
        f'<div class="csr-bytes" style="--part:{side.bytes / most:.4f}" aria-hidden="true"></div>'
        f'<p class="csr-small">{order}</p></header><ol>{hits}</ol></section>'
    )


def _show_hit(view: RunView, hit: Found, rank: int, hues: dict[int, int], other_name: str | None) -> str:
    other = _show_rank(hit.other_rank, other_name)
    largest = max((share.score for share in hit.shares), default=1.0)
    chips = "".join(
        show_chip(view, share.latent, share.score / largest, f"adds {share.score:.3f}", hues.get(share.latent))
        for share in hit.shares
        if share.latent is not None
    )
    chips = f'<div class="csr-chips" aria-label="Latents that carry the score">{chips}</div>' if chips else ""
    same = " csr-common" if hit.other_rank is not None else ""
    return (
        f'<li class="csr-hit{same}"><div class="csr-line"><span class="csr-place">{rank}</span>'
        f"<b>{hit.score:.3f}</b>{other}</div>{show_body(hit.document)}{chips}</li>"
    )


def _show_rank(rank: int | None, name: str | None) -> str:
    """Show the place of a hit on the other side, if there is one."""
    if name is None:
        return ""
    if rank is None:
        return f'<span class="csr-only">not in {name}</span>'
    return f'<span class="csr-rank">{name} {rank}</span>'


def show_comparison(view: RunView, found: Comparison) -> str:
    """Show what two texts have in common: both cosines, shared latents, and those of one alone."""
    cut = f'<p class="csr-small">{_CUT}</p>' if found.is_cut else ""
    rows = "".join(
        f"<tr><th scope=row>{show_chip(view, pair.latent, pair.share, f'{pair.share:.0%} of what is shared', place)}"
        f'</th><td><meter value="{pair.share:.3f}" aria-hidden="true"></meter> {pair.share:.0%}</td>'
        f"<td>{pair.first:.2f}</td><td>{pair.second:.2f}</td></tr>"
        for place, pair in enumerate(found.shared)
    )
    table = (
        "<table><thead><tr><th scope=col>shared latent</th><th scope=col>part</th><th scope=col>first</th>"
        f"<th scope=col>second</th></tr></thead><tbody>{rows}</tbody></table>"
        if rows
        else f'<p class="csr-note">The codes of {found.k} latents share none.</p>'
    )
    alone = "".join(
        f'<section><h3>only in the {name}</h3><div class="csr-chips">{_show_values(view, values)}</div></section>'
        for name, values in (("first", found.only_first), ("second", found.only_second))
    )
    return (
        f'<div class="csr csr-compare">{cut}<p class="csr-sum" role="status">cosine of the codes '
        f"<b>{found.sparse:.3f}</b>, of the embeddings <b>{found.dense:.3f}</b> &middot; "
        f"<b>{len(found.shared)} of {found.k}</b> latents shared</p>"
        f'<div class="csr-table">{table}</div><div class="csr-sides">{alone}</div></div>'
    )


def _show_values(view: RunView, values: dict[int, float]) -> str:
    largest = max(values.values(), default=1.0)
    chips = [show_chip(view, latent, value / largest, f"value {value:.2f}", None) for latent, value in values.items()]
    return "".join(chips) or "none"


def show_header(view: RunView) -> str:
    """Show what the run holds, and what the page does without."""
    facts = [
        f"<b>{view.size:,}</b> documents",
        f"<b>{view.index_bytes:,.0f}</b> bytes each in the index",
        f"<b>{view.index.dim:,}</b> latents",
        text(view.backbone.name.rstrip("/").rsplit("/", 1)[-1]),
    ]
    notes = "".join(f'<p class="csr-note" role="status">{text(note)}</p>' for note in view.notes)
    return f'<div class="csr csr-head"><h1>{text(view.title)}</h1><p>{" &middot; ".join(facts)}</p>{notes}</div>'
