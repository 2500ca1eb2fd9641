"""Take a backbone however a caller gives it: by name, as a model in memory, or as a Backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.embedding.arguments import BackboneSettings
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.loading import load_backbone, name_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def take_backbone(given: str | Path | SentenceTransformer | Backbone, **options: Any) -> Backbone:
    """Return a backbone, loaded if it is given by name.

    Args:
        given: Hub id or folder; or a SentenceTransformer; or a Backbone, which is returned as it is.
        **options: of `load_backbone`, such as `device`; for a model in memory settings alone, such as `prompts`.

    Raises:
        ValueError: as `load_backbone` does, for options beside a Backbone, or for what is no backbone.
    """
    options = {name: value for name, value in options.items() if value not in (None, False)}
    if isinstance(given, str | Path):
        return load_backbone(str(given), **options)
    from sentence_transformers import SentenceTransformer, SparseEncoder

    if isinstance(given, Backbone):
        if options:
            raise ValueError(
                f"`{next(iter(options))}` is for a backbone by name; this one is loaded. Load it with it."
            )
        return given
    if isinstance(given, SparseEncoder):
        raise ValueError("`backbone` is a SparseEncoder. Give it to `CSREncoder.from_sparse_encoder`.")
    if not isinstance(given, SentenceTransformer):
        raise ValueError(
            f"`backbone` ({type(given).__name__}) must be a Hub id, a folder, a SentenceTransformer or a Backbone."
        )
    device = options.pop("device", None)
    loading = sorted(options.keys() & {"revision", "token", "trust_remote_code"})
    if loading:
        raise ValueError(f"`{loading[0]}` is for a backbone by name; this one is loaded.")
    backbone = Backbone(given, name_of(given), settings=BackboneSettings(**options))
    return backbone if device is None else backbone.to(device)
