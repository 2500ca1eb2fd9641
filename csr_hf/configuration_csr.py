"""Configuration of a CSR head: every size, validated. Travels inside each model repository."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class CSRConfig(PretrainedConfig):
    r"""Sizes of a CSR head (Contrastive Sparse Representation, arXiv 2503.01776, section 3).

    Args:
        input_dim: width of the dense embeddings.
        hidden_dim: number of latents; the paper's best is 4 * input_dim.
        k: active latents of a code.
        k_aux: dead latents that the auxiliary loss revives; None means min(512, hidden_dim // 2), 0 switches it off.
        dead_threshold: a latent is dead when it has not fired for this many training examples.
        tied_decoder: decode with the transpose of the encoder (no decoder parameter); False: a decoder of its own.
        base_model_name_or_path: the backbone these embeddings come from.
        base_model_revision: its commit, when known.
        modalities: what the head encodes, such as ["image", "text"], where a backbone has a tower for each. Embeddings
            of a modality are then centered before they reach the head, see `CSRModel.subtract_modality_mean`. None:
            one modality.

    Raises:
        ValueError: if a size is not a positive integer, `k` or `k_aux` exceeds `hidden_dim`, `modalities` are not
            several different ones, or `normalize=True` is given.
    """

    model_type = "csr"
    # Saved folders carry this file, and so load where csr_hf is not installed.
    _auto_class = "AutoConfig"

    def __init__(
        self,
        input_dim: int = 384,
        hidden_dim: int = 1536,
        k: int = 32,
        k_aux: int | None = None,
        dead_threshold: int = 50_000,
        tied_decoder: bool = True,
        base_model_name_or_path: str | None = None,
        base_model_revision: str | None = None,
        modalities: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        sizes = {"input_dim": input_dim, "hidden_dim": hidden_dim, "k": k, "dead_threshold": dead_threshold}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"`{name}` ({size!r}) must be a positive integer.")
        if k > hidden_dim:
            raise ValueError(f"`k` ({k}) must not exceed `hidden_dim` ({hidden_dim}). Lower k or raise hidden_dim.")
        if k_aux is None:
            k_aux = min(512, hidden_dim // 2)
        if isinstance(k_aux, bool) or not isinstance(k_aux, int) or k_aux < 0:
            raise ValueError(f"`k_aux` ({k_aux!r}) must be an integer, 0 or more (0: no auxiliary loss).")
        if k_aux > hidden_dim:
            raise ValueError(
                f"`k_aux` ({k_aux}) must not exceed `hidden_dim` ({hidden_dim}). Lower k_aux or raise hidden_dim."
            )
        if kwargs.pop("normalize", False):
            raise ValueError(
                "`normalize` (layer norm of the inputs, of sentence-transformers) is not part of a CSR head."
            )
        if modalities is not None and (len(modalities) < 2 or len(set(modalities)) < len(modalities)):
            raise ValueError(
                f"`modalities` ({modalities!r}) must be several different ones, or None for a single one."
            )
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.k = k
        self.k_aux = k_aux
        self.dead_threshold = dead_threshold
        self.tied_decoder = tied_decoder
        self.base_model_name_or_path = base_model_name_or_path
        self.base_model_revision = base_model_revision
        self.modalities = modalities
        super().__init__(**kwargs)
