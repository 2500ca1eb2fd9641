"""Configure a CSR head: its sizes, which are validated. A copy of this file is saved in each model repository."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class CSRConfig(PretrainedConfig):
    r"""Configuration of a CSR head (Contrastive Sparse Representation, arXiv 2503.01776, section 3).

    Args:
        input_dim: width of the dense embeddings.
        hidden_dim: number of latents; 4 * input_dim works best in the paper.
        k: active latents of a code.
        k_aux: dead latents that the auxiliary loss revives; None means min(512, hidden_dim // 2), 0 switches it off.
        dead_threshold: a latent is dead when it was not active for this many training examples.
        tied_decoder: decode with the transpose of the encoder's matrix; False adds a decoder matrix.
        base_model_name_or_path: backbone whose embeddings the head takes.
        base_model_revision: commit of the backbone, when known.
        modalities: the modalities that the head encodes, such as ["image", "text"], where the backbone has a tower for
            each. The mean of the modality is then subtracted from embeddings before the head takes them, see
            `CSRModel.subtract_modality_mean`. None: one modality, and no mean is subtracted.

    Raises:
        ValueError: if a size is not a positive integer, `k` or `k_aux` exceeds `hidden_dim`, `modalities` has less
            than two entries or the same twice, or `normalize=True` is given.
    """

    model_type = "csr"
    # Makes `save_pretrained` copy this file, so that saved folders load where csr_hf is not installed.
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
                "`normalize` (layer norm of the inputs, in sentence-transformers) is not part of a CSR head."
            )
        if modalities is not None and (len(modalities) < 2 or len(set(modalities)) < len(modalities)):
            raise ValueError(
                f"`modalities` ({modalities!r}) must be two or more different names, or None for one modality."
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
