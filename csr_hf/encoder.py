"""Backbone and head together: texts or images in, sparse codes out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from csr_hf.backbone import Backbone, load_backbone, load_packed_backbone
from csr_hf.heads import load_head
from csr_hf.images import is_image
from csr_hf.repository import is_hub_id, open_repository
from csr_hf.sparse_codes import QueryProjections, SparseCodes, index_dtype

if TYPE_CHECKING:
    import torch

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
        if backbone.dim != head.config.input_dim:
            raise ValueError(
                f"backbone {backbone.name} gives {backbone.dim} dimensions, the head takes `input_dim` "
                f"{head.config.input_dim} (it was trained on {head.config.base_model_name_or_path}). "
                "Use that backbone, or train a head for this one."
            )
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
        base = head.config.base_model_name_or_path
        backbone = load_packed_backbone(repository, base or repository.name, device=device)
        if backbone is None:
            if base is None:
                raise ValueError(
                    f"the config of {name_or_path} names no backbone (`base_model_name_or_path`). "
                    "Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
                )
            if repository.commit is not None and not is_hub_id(base):
                raise ValueError(
                    f"the config of {name_or_path} names a folder as its backbone ({base!r}), which is not followed "
                    "from the Hub. Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
                )
            backbone = load_backbone(base, revision=head.config.base_model_revision, device=device, token=token)
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
        return encode_embeddings(self.head, self.centre(embeddings, inputs), k, refine=refine)

    def encode_query(self, inputs: Any, **options: Any) -> SparseCodes:
        """`encode` with the backbone's "query" prompt, if it has one."""
        return self.encode(inputs, **{"prompt_name": "query", **options})

    def encode_document(self, inputs: Any, **options: Any) -> SparseCodes:
        """`encode` with the backbone's "document" prompt, if it has one."""
        return self.encode(inputs, **{"prompt_name": "document", **options})

    def centre(self, embeddings: np.ndarray, inputs: Any) -> np.ndarray:
        """Embeddings as the head takes them: those of a modality less its mean, where the head has several.

        Args:
            embeddings: of `embed`, shape (n, input_dim).
            inputs: what was embedded.
        """
        if not self.head.config.modalities:
            return embeddings
        kinds = np.array(self.backbone.modalities_of(_listed(inputs)), object)
        centred = np.empty_like(embeddings)
        for kind in dict.fromkeys(kinds):
            centred[kinds == kind] = centre(self.head, embeddings[kinds == kind], kind)
        return centred


def centre(head: CSRModel, embeddings: np.ndarray, modality: str | None) -> np.ndarray:
    """`CSRModel.centre` of an array, float32; embeddings of a head of one modality stay as they are."""
    import torch

    if not head.config.modalities:
        return embeddings
    with torch.inference_mode():
        rows = torch.from_numpy(np.asarray(embeddings, np.float32)).to(head.modality_bias.device)
        return head.centre(rows, modality).float().cpu().numpy()


def _listed(inputs: Any) -> Sequence[Any]:
    return [inputs] if isinstance(inputs, str) or is_image(inputs) else inputs


_FINGERPRINTS: WeakKeyDictionary[CSRModel, tuple[tuple[tuple[int, int], ...], str]] = WeakKeyDictionary()


def head_fingerprint(head: CSRModel) -> str:
    """Identifies a head by its weights: codes of heads with different fingerprints cannot be compared.

    Hashing takes milliseconds, more than a query: it is done anew when a weight was exchanged or written to.
    """
    state = tuple((id(parameter), parameter._version) for parameter in (*head.parameters(), *head.buffers()))
    known = _FINGERPRINTS.get(head)
    if known is None or known[0] != state:
        known = _FINGERPRINTS[head] = (state, _hashed(head))
    return known[1]


def _hashed(head: CSRModel) -> str:
    digest = hashlib.blake2b(digest_size=8)
    tensors: dict[str, torch.Tensor] = dict(head.named_parameters())
    if head.config.modalities:
        tensors["modality_bias"] = head.modality_bias
    for name, parameter in sorted(tensors.items()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(np.ascontiguousarray(parameter.detach().float().cpu().numpy()).tobytes())
    return digest.hexdigest()


def encode_embeddings(
    head: CSRModel,
    embeddings: np.ndarray,
    k: int | None = None,
    *,
    refine: bool | Literal["pursuit"] = False,
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int = 2048,
) -> SparseCodes:
    """Sparse codes of cached embeddings.

    Args:
        head: the CSR head.
        embeddings: shape (n, input_dim), any float type.
        k: active latents; default the head's.
        refine: True or "pursuit" for better codes of documents, see `CSRModel.encode`.
        dtype: of the values; float16 is what an index stores.
        batch_size: rows in one pass.

    Raises:
        ValueError: for NaN or infinite embeddings (the first such row is named), a wrong width, k > hidden_dim, or
            values that overflow `dtype`.
    """
    import torch

    config = head.config
    k = config.k if k is None else k
    indices = values = np.empty(0)
    # Even with no rows the head checks k and the width, before anything of the size k is made.
    for start in range(0, max(len(embeddings), 1), batch_size):
        block = _batch(head, embeddings, start, batch_size)
        with torch.inference_mode():
            block_values, block_indices = head.encode(block, k, refine=refine)
        if start == 0:
            indices = np.empty((len(embeddings), k), index_dtype(config.hidden_dim))
            values = np.empty((len(embeddings), k), np.dtype(dtype))
        with np.errstate(over="ignore"):
            values[start : start + batch_size] = block_values.float().cpu().numpy()
        indices[start : start + batch_size] = block_indices.cpu().numpy()
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the code of embeddings[{int(np.argmin(finite))}] overflows {np.dtype(dtype)} or the head's type. "
            'Use dtype="float32" and a float32 head, or normalise the embeddings.'
        )
    return SparseCodes(indices, values, config.hidden_dim, head_fingerprint(head), check=False)


def decode_codes(head: CSRModel, codes: SparseCodes) -> np.ndarray:
    """Dense embeddings of codes, float32, shape (n, input_dim)."""
    blocks = list(_decoded_blocks(head, codes))
    return (
        np.concatenate([block.cpu().numpy() for block in blocks]) if blocks else np.zeros((0, head.config.input_dim))
    )


def decoded_norms(head: CSRModel, codes: SparseCodes, batch_size: int = 2048) -> np.ndarray:
    """||decode(z)|| of every code, float32, shape (n,): what an index divides by."""
    blocks = [block.norm(dim=-1).cpu().numpy() for block in _decoded_blocks(head, codes, batch_size)]
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _decoded_blocks(head: CSRModel, codes: SparseCodes, batch_size: int = 2048) -> Iterator[torch.Tensor]:
    """Decoded codes in float32, some rows at a time: a dense copy of all latents would not fit."""
    import torch

    weight = head.encoder.weight
    for start in range(0, len(codes), batch_size):
        part = codes[start : start + batch_size]
        values = torch.from_numpy(part.values.astype(np.float32)).to(weight)
        indices = torch.from_numpy(part.indices.astype(np.int64)).to(weight.device)
        with torch.inference_mode():
            yield head.decode(values, indices).float()


def project_queries(head: CSRModel, embeddings: np.ndarray) -> QueryProjections:
    """Dense queries seen from the latents, for an index with decoded norms; see `CSRModel.project`."""
    import torch

    with torch.inference_mode():
        latents, offset = head.project(_batch(head, embeddings, 0, len(embeddings)))
    return QueryProjections(latents.float().cpu().numpy(), offset.float().cpu().numpy(), head_fingerprint(head))


def _batch(head: CSRModel, embeddings: np.ndarray, start: int, size: int) -> torch.Tensor:
    import torch

    block = np.asarray(embeddings[start : start + size], dtype=np.float32)
    finite = np.isfinite(block).all(axis=-1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise ValueError(f"embeddings[{row}] holds NaN or infinity. Check that text, or embed it in float32.")
    return torch.from_numpy(np.ascontiguousarray(block)).to(head.encoder.weight)
