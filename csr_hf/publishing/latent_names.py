"""Publish the names of latents with their head: in `latents.json`, in its config, and a few of them on the card."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.explain.latents import Latents
from csr_hf.plumbing.foreign import inline
from csr_hf.runs.folder import LATENTS

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_SHOWN = 12


def take_latents(source: Path | None, head: CSRModel) -> tuple[Latents | None, list[str]]:
    """Read what is known of the latents of a head, and write their names into its config as `id2label`.

    The texts that latents were named by are left out: they are the user's own, and nobody asked to publish them.

    Args:
        source: folder of the run, or of an earlier export; None where there is none.
        head: whose config gets the names.

    Returns:
        The latents, None without any; and a sentence for the user where they could not be taken.
    """
    path = None if source is None else source / LATENTS
    if path is None or not path.is_file():
        return None, []
    try:
        found = Latents.load(path, head.fingerprint)
    except ValueError as error:
        return None, [f"the names of latents are left out: {error}"]
    if len(found) != head.config.hidden_dim:
        return None, [f"the names of latents are left out: {path} has {len(found):,} of {head.config.hidden_dim:,}"]
    head.config.id2label = {latent.number: found.name(latent.number) for latent in found}
    head.config.label2id = None
    return found.without_examples(), []


def save_latents(latents: Latents | None, folder: Path) -> None:
    """Write what is known of latents into a published model; nothing without any."""
    if latents is not None:
        latents.save(folder / LATENTS)


def render_latents(latents: Latents | None) -> str:
    """Word a paragraph on the names of latents for the model card, empty without any."""
    known = [latent for latent in latents.live if latent.name and latent.auc is not None] if latents else []
    if not known or latents is None:
        return ""
    scores = [latent.auc for latent in known if latent.auc is not None]
    clear = sorted((latent for latent in known if not latent.is_doubtful), key=lambda latent: -latent.fires)
    # From the most frequent to the rarest.
    shown = clear[:: max(1, len(clear) // _SHOWN)][:_SHOWN]
    names = "; ".join(f"{latent.number}: {inline(latent.name)}" for latent in shown)
    return (
        f"`{LATENTS}` names the {len(known):,} latents that fire, in one to four words of the texts in which they are "
        f"strongest. On other texts a name tells a tenth of them, the strongest, from texts without the latent (half "
        f"of them the nearest) with a median AUC of {statistics.median(scores):.2f}. Some: {names}."
    )
