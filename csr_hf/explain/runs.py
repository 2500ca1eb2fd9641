"""Explain the head of a finished run by the data that it was made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from csr_hf.embedding.loading import load_backbone_of
from csr_hf.explain.describing import STRONG_SHARE, describe_latents, embed_names_with
from csr_hf.explain.items import MOST_ITEMS, gather_items
from csr_hf.explain.latents import Latents
from csr_hf.explain.matching import match_latents
from csr_hf.explain.page import write_page
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.runs.embedding import embed_loaded, load
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe

logger = logging.getLogger(__name__)


def explain_run(
    folder: str | Path,
    *,
    texts: int = MOST_ITEMS,
    shares: Sequence[float] = (STRONG_SHARE,),
    other: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Latents:
    """Name the latents of a run's head, and write `latents.json` and `latents.html` into its folder.

    Args:
        folder: output folder of `csr-hf run` or `csr-hf train`.
        texts: to read at most.
        shares: see `describe_latents`.
        other: run or head of another seed, in which latents are looked for.
        device: of the backbone; default the best there is.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ValueError: if the folder is no run, its data is not there, or it has neither texts nor captions.
    """
    files = RunFolder.of(folder)
    for name in files.missing(files.model, files.recipe):
        raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
    keys = {"output_dir": str(files.path), **({} if device is None else {"backbone.device": device})}
    recipe = RunRecipe.load(files.recipe, keys)
    repository = open_repository(files.model)
    head = load_head(repository).eval()
    partner = None if other is None else load_head(open_repository(_find_head(other))).eval()
    backbone = load_backbone_of(repository, head, device=device, trust_remote_code=trust_remote_code)
    data = load(recipe, backbone=backbone, trust_remote_code=trust_remote_code)
    embed_loaded(recipe, data)
    items = gather_items(data, head, texts)
    found = describe_latents(head, items, embed_names_with(backbone, head), shares=shares)
    if partner is not None:
        cosines = match_latents(head, partner).cosines
        matched = [
            replace(latent, again=round(float(cosine), 4)) for latent, cosine in zip(found, cosines, strict=True)
        ]
        found = replace(found, latents=matched)
    found.save(files.latents)
    write_page(files.latents_page, found, f"Latents of {files.path.resolve().name}")
    logger.info("latents    %s and %s", files.latents, files.latents_page.name)
    return found


def _find_head(path: str | Path) -> Path | str:
    """Return the folder of the head of a run, or a folder or Hub id of a head as it is."""
    files = RunFolder.of(path)
    return files.model if files.is_run else path
