"""Backbone and head together: texts or images in, sparse codes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.codes import encode_embeddings, head_fingerprint, subtract_modality_mean
from csr_hf.embedding.backbone import Backbone, check_width, load_backbone_of
from csr_hf.embedding.images import is_image
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


class CSREncoder:
    """A frozen backbone with a CSR head behind it.

    Args:
        backbone: from `load_backbone`.
        head: the trained `CSRModel`.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """

    def __init__(self, backbone: Backbone, head: CSRModel) -> None:
        check_width(backbone, head)
        self.backbone = backbone
        self.head = head.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        token: str | bool | None = None,
    ) -> CSREncoder:
        """Load a head and its backbone: the one in the same repository, else the one its config names.

        Args:
            name_or_path: a folder that `csr-hf run`, `csr-hf export` or `CSRModel.save_pretrained` wrote, a Hub id, or
                a SparseEncoder of sentence-transformers whose modules end with a `SparseAutoEncoder`.
            revision: branch, tag or commit of the repository. All files are of one commit.
            device: for backbone and head; default the best at hand.
            token: for a private repository; default the one of `hf auth login` or of HF_TOKEN.

        Raises:
            ValueError: if there is no such repository or no right to read it, its files are damaged or point outside
                of it, its config names no backbone, or the backbone's width differs.
        """
        repository = open_repository(name_or_path, revision=revision, token=token)
        head = load_head(repository)
        backbone = load_backbone_of(repository, head, device=device, token=token)
        head.to(backbone.model.device)  # type: ignore[arg-type]
        return cls(backbone, head)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the head, carried by the codes it makes."""
        return head_fingerprint(self.head)

    def embed(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> np.ndarray:
        """Dense embeddings of the backbone, float32, shape (n, input_dim); one text or image gives one row."""
        return self.backbone.embed(_listed(inputs), prompt_name, batch_size, progress=progress)

    def encode(
        self,
        inputs: Any,
        *,
        k: int | None = None,
        refine: bool | Literal["pursuit"] = False,
        prompt_name: str | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> SparseCodes:
        """Sparse codes of texts and images; exactly the head applied to the backbone's embeddings.

        Args:
            inputs: one text or image or a sequence of them, also mixed: images are those of PIL, arrays, `Path`s, or
                strings that name an image file (if the backbone takes any). No inputs give codes of length 0.
            k: active latents; default the head's.
            refine: True or "pursuit" for better codes of documents, see `CSRModel.encode`.
            prompt_name: one of the backbone's prompts, for texts.
            batch_size: inputs in one pass of the backbone.
            progress: show a bar.

        Raises:
            ValueError: if `k` exceeds hidden_dim, the prompt is unknown, or an image is broken.
            TypeError: if an element is neither text nor image, or the backbone has no tower for it.
        """
        inputs = _listed(inputs)
        embeddings = self.embed(inputs, prompt_name=prompt_name, batch_size=batch_size, progress=progress)
        return encode_embeddings(self.head, self.subtract_modality_means(embeddings, inputs), k, refine=refine)

    def encode_query(self, inputs: Any, **options: Any) -> SparseCodes:
        """`encode` with the backbone's "query" prompt, if it has one."""
        return self.encode(inputs, **{"prompt_name": "query", **options})

    def encode_document(self, inputs: Any, **options: Any) -> SparseCodes:
        """`encode` with the backbone's "document" prompt, if it has one."""
        return self.encode(inputs, **{"prompt_name": "document", **options})

    def subtract_modality_means(self, embeddings: np.ndarray, inputs: Any) -> np.ndarray:
        """Embeddings as the head takes them: those of a modality less its mean, where the head has several.

        Args:
            embeddings: of `embed`, shape (n, input_dim).
            inputs: what was embedded.
        """
        if not self.head.config.modalities:
            return embeddings
        kinds = np.array(self.backbone.modalities_of(_listed(inputs)), object)
        centered = np.empty_like(embeddings)
        for kind in dict.fromkeys(kinds):
            centered[kinds == kind] = subtract_modality_mean(self.head, embeddings[kinds == kind], kind)
        return centered


def _listed(inputs: Any) -> Sequence[Any]:
    return [inputs] if isinstance(inputs, str) or is_image(inputs) else inputs
