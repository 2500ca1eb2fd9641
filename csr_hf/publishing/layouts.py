"""Whether a published head takes its backbone along."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from csr_hf.embedding.loading import NeedsRemoteCodeError

if TYPE_CHECKING:
    from csr_hf.embedding.backbone import Backbone

Layout = Literal["full", "head"]

LARGE_BACKBONE = 1_000_000_000
"""Bytes of backbone weights above which the default layout is "head"."""
_CODE = (
    "it needs code of its own repository, which an export does not carry; the head alone names the backbone, "
    "and whoever loads both passes trust_remote_code"
)


class LayoutChoice(NamedTuple):
    """The layout of an export."""

    layout: Layout
    reason: str
    backbone: Backbone | None = None
    """That goes along."""
    obstacle: str | None = None
    """Why it cannot go along."""


def choose_layout(layout: Layout | None, weight_bytes: int | None, load: Callable[[], Backbone]) -> LayoutChoice:
    """Choose a layout where the user does not, and load the backbone if it goes along.

    Args:
        layout: what the user wants; None for the usual one.
        weight_bytes: of the backbone; None if nothing says.
        load: loads the backbone.

    Raises:
        ValueError: if the user wants the backbone, and it cannot go along.
    """
    chosen, reason = default_layout(weight_bytes) if layout is None else (layout, "as requested")
    if chosen == "head":
        return LayoutChoice(chosen, reason)
    try:
        return LayoutChoice(chosen, reason, load())
    except NeedsRemoteCodeError as error:
        if layout == "full":
            raise ValueError(
                f"layout full cannot hold this backbone: {_CODE}. Use layout head (--layout head)."
            ) from error
        return LayoutChoice("head", _CODE, obstacle=_CODE)


def default_layout(weight_bytes: int | None) -> tuple[Layout, str]:
    """Choose a layout by the size of the backbone's weights; also return the reason."""
    if weight_bytes is None:
        return "full", "the size of the backbone is unknown"
    size = f"the backbone's weights are {weight_bytes / 1e9:.2f} GB"
    if weight_bytes > LARGE_BACKBONE:
        return "head", f"{size}, above 1 GB: it stays where it is (--layout full takes it along)"
    return "full", size
