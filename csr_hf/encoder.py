"""Encode texts or images into sparse codes, with a backbone and a head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from csr_hf.codes import encode_embeddings, head_fingerprint, subtract_modality_mean
from csr_hf.embedding.arguments import Task
from csr_hf.embedding.backbone import Backbone, check_width
from csr_hf.embedding.images import is_image
from csr_hf.embedding.inputs import as_sequence
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.search_index import SearchIndex

logger = logging.getLogger(__name__)


class CSREncoder:
    """A frozen backbone followed by a CSR head.

    A head whose config records no settings of its backbone gets those of this one.

    Args:
        backbone: the frozen model, from `load_backbone`.
        head: the CSR head, trained on the backbone's embeddings.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """

    def __init__(self, backbone: Backbone, head: CSRModel) -> None:
        check_width(backbone, head)
        self.backbone = backbone
        self.head = head.eval()
        settings = backbone.settings.to_record()
        if not head.config.base_model_settings:
            head.config.base_model_settings = settings
        elif head.config.base_model_settings != settings:
            logger.warning(
                "the head was trained with the backbone's settings %s, this backbone has %s",
                head.config.base_model_settings,
                settings,
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        token: str | bool | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> CSREncoder:
        """Load a head and its backbone: the one packed in the head's repository, else the one its config names.

        Args:
            name_or_path: a folder that `csr-hf run`, `csr-hf export` or `CSRModel.save_pretrained` wrote, a Hub id, or
                a SparseEncoder of sentence-transformers whose modules end with a `SparseAutoEncoder`.
            revision: branch, tag or commit of a Hub repository; all files are read at one commit.
            device: for backbone and head; default the best available.
            token: for a private repository; default the one of `hf auth login` or of HF_TOKEN.
            trust_remote_code: run code of the backbone's repository. No config can turn this on, only the caller.
            **settings: of the backbone, in place of those that the head's config records: `prompts`,
                `max_seq_length`, `truncate_dim`, `dtype`, `model_kwargs`, `processor_kwargs`, `similarity`.

        Raises:
            ValueError: if there is no such repository or no permission to read it, its files are damaged or point
                outside of it, its config names no backbone or a wrong setting, or the backbone's width differs.
        """
        repository = open_repository(name_or_path, revision=revision, token=token)
        head = load_head(repository)
        backbone = load_backbone_of(
            repository, head, device=device, token=token, trust_remote_code=trust_remote_code, **settings
        )
        head.to(backbone.model.device)  # type: ignore[arg-type]
        return cls(backbone, head)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the head; its codes carry it."""
        return head_fingerprint(self.head)

    def embed(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: Task | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Embed with the backbone alone: dense, float32, shape (n, input_dim), without the head.

        Args:
            inputs: as for `encode`; one text or image gives one row.
            prompt_name: one of the backbone's prompts, for texts; default that of the task.
            prompt: text to put before texts, instead of a prompt with a name.
            task: "query" or "document", as for `Backbone.embed`.
            batch_size: inputs in one forward pass.
            show_progress_bar: as for `Backbone.embed`.
        """
        return self.backbone.embed(
            _as_list(inputs), prompt_name, batch_size, task=task, prompt=prompt, show_progress_bar=show_progress_bar
        )

    def encode(
        self,
        inputs: Any,
        *,
        k: int | None = None,
        refine: bool | Literal["pursuit"] = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: Task | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> SparseCodes:
        """Encode texts and images: embed them, subtract the modality means of a head that has them, apply the head.

        Args:
            inputs: one text or image, or several in a list, tuple, generator, array of texts, column of `datasets` or
                Series (by position, whatever its index). Images are those of PIL, arrays, `Path`s, or, where the
                backbone embeds images, strings that name an image file. Nothing gives codes of length 0.
            k: active latents; default the head's.
            refine: True or "pursuit" for more exact codes of documents, see `CSRModel.encode`.
            prompt_name: one of the backbone's prompts, for texts; default that of the task.
            prompt: text to put before texts, instead of a prompt with a name.
            task: "query" or "document", as for `Backbone.embed`.
            batch_size: inputs in one forward pass of the backbone.
            show_progress_bar: as for `Backbone.embed`.

        Raises:
            ValueError: if `k` exceeds hidden_dim, the prompt is unknown, an image is broken, `inputs` has no order (a
                set, a dict) or is a table, or an input is missing, neither text nor image, or of a kind that the
                backbone does not embed.
        """
        inputs = _as_list(inputs)
        embeddings = self.embed(
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            task=task,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
        return encode_embeddings(self.head, self.subtract_modality_means(embeddings, inputs), k, refine=refine)

    def encode_query(self, inputs: Any, **options: Any) -> SparseCodes:
        """Encode as queries: with the backbone's prompt and tower for them, if any; options as for `encode`."""
        return self.encode(inputs, **{"task": "query", **options})

    def encode_document(self, inputs: Any, **options: Any) -> SparseCodes:
        """Encode as documents: with the backbone's prompt and tower for them, if any; options as for `encode`."""
        return self.encode(inputs, **{"task": "document", **options})

    def build_index(self, texts: Any, **options: Any) -> SearchIndex:
        """Embed and index documents; options as for `SearchIndex.build`."""
        from csr_hf.search_index import SearchIndex

        return SearchIndex.build(self, texts, **options)

    def subtract_modality_means(self, embeddings: np.ndarray, inputs: Any) -> np.ndarray:
        """Subtract from each embedding the mean of its modality, as a head of several modalities requires.

        This is not the head's `pre_bias`, which the head subtracts itself. A head of one modality returns the
        embeddings unchanged.

        Args:
            embeddings: of `embed`, shape (n, input_dim).
            inputs: the inputs that were embedded.
        """
        if not self.head.config.modalities:
            return embeddings
        kinds = np.array(self.backbone.modalities_of(_as_list(inputs)), object)
        if len(kinds) != len(embeddings):
            raise ValueError(f"`inputs` has {len(kinds)} inputs for {len(embeddings)} embeddings: give one for each.")
        shifted = np.empty_like(embeddings)
        for kind in dict.fromkeys(kinds):
            shifted[kinds == kind] = subtract_modality_mean(self.head, embeddings[kinds == kind], kind)
        return shifted


def _as_list(inputs: Any) -> Sequence[Any]:
    return [inputs] if isinstance(inputs, str) or is_image(inputs) else as_sequence(inputs)
