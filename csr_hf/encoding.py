"""Encode texts or images into sparse codes, with the keywords of sentence-transformers, and compare the codes."""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np

from csr_hf.code_products import multiply_codes, multiply_rows
from csr_hf.codes import (
    choose_query_k,
    encode_embeddings,
    encode_queries,
    head_fingerprint,
    scale_documents,
    subtract_modality_means,
)
from csr_hf.embedding.arguments import Task
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.images import is_image
from csr_hf.embedding.inputs import as_sequence
from csr_hf.plumbing.settings import suggest
from csr_hf.plumbing.signatures import show_keywords
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    import torch
    from mteb.models.model_meta import ModelMeta

    from csr_hf.modeling_csr import CSRModel


# What people type who come from dense models, and what to pass here.
_INSTEAD = {
    "convert_to_numpy": "`convert_to_sparse_tensor=False` for a dense tensor, and take its `.numpy()`",
    "k": "`max_active_dims`",
    "top_k": "`max_active_dims`",
    "truncate_dim": "`max_active_dims`",
    "refine": "it to `encode` or `encode_document`: a query is not refined",
    "precision": "the codes to `codes.pack()`, or embeddings to `csr_hf.Coder`",
}


class _FormOptions(TypedDict, total=False):
    """Keywords of sentence-transformers that `HeadEncoder.encode` takes by name alone, described there."""

    convert_to_tensor: bool
    convert_to_sparse_tensor: bool | None
    normalize_embeddings: bool
    max_active_dims: int | None
    device: str | list[str] | None
    chunk_size: int | None
    task: Task | None


class EncodeOptions(_FormOptions, total=False):
    """All keywords that `HeadEncoder.encode` and its relatives share."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int
    show_progress_bar: bool | None


_OFF = {"convert_to_tensor": False, "normalize_embeddings": False}
_OPTIONS = frozenset(_FormOptions.__annotations__) | frozenset(EncodeOptions.__annotations__)
_EMBED_OPTIONS = ("prompt_name", "prompt", "task", "batch_size", "show_progress_bar", "device", "chunk_size")
# Of what mteb says beside its task: prompt, role and form of the codes follow from that.
_TASK_OPTIONS = ("batch_size", "show_progress_bar", "max_active_dims", "device", "chunk_size")


class HeadEncoder:
    """What a backbone and its head do together; see `CSREncoder`."""

    backbone: Backbone
    _head: CSRModel | None = None
    _k: int = 32
    _name: str | None = None

    @property
    def head(self) -> CSRModel:
        """The CSR head.

        Raises:
            ValueError: if there is none yet.
        """
        if self._head is None:
            raise ValueError(
                f"this CSREncoder ({self.backbone.name}) is not fitted. Train a head with `fit(texts)`, or load one "
                "with `CSREncoder.from_pretrained`."
            )
        return self._head

    @property
    def k(self) -> int:
        """Active latents of a code, where a call says nothing else."""
        return self._k if self._head is None else self._head.config.k

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
        device: str | list[str] | None = None,
        chunk_size: int | None = None,
    ) -> np.ndarray:
        """Embed with the backbone alone: dense, float32, shape (n, input_dim), without the head.

        Args:
            inputs: as for `encode`; one text or image gives one row.
            prompt_name: one of the backbone's prompts, for texts; default that of the task.
            prompt: text to put before texts, instead of a prompt with a name.
            task: "query" or "document", as for `Backbone.embed`.
            batch_size: inputs in one forward pass.
            show_progress_bar: as for `Backbone.embed`.
            device: as for `encode`.
            chunk_size: as for `encode`.
        """
        return self.backbone.embed(
            _as_list(inputs),
            prompt_name,
            batch_size,
            task=task,
            prompt=prompt,
            show_progress_bar=show_progress_bar,
            device=device,
            chunk_size=chunk_size,
        )

    @show_keywords(_FormOptions, **_OFF)
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        refine: bool | Literal["pursuit"] = False,
        **form: Unpack[_FormOptions],
    ) -> Any:
        """Encode texts and images: embed them, subtract the modality means of a head that has them, apply the head.

        These are the codes that SparseEncoder and the other doors give. Queries and documents of a search are better
        encoded by `encode_query` and `encode_document`.

        Args:
            inputs: one text or image, or several in a list, tuple, generator, array of texts, column of `datasets` or
                Series (by position, whatever its index). Images are those of PIL, arrays, `Path`s, or, where the
                backbone embeds images, strings that name an image file. Nothing gives codes of length 0.
            prompt_name: one of the backbone's prompts, for texts; default that of the task.
            prompt: text to put before texts, instead of a prompt with a name.
            batch_size: inputs in one forward pass of the backbone; default 32.
            show_progress_bar: None draws bars on terminals, if there are several batches and bars are not disabled.
            refine: True or "pursuit" for more exact codes of documents, see `CSRModel.encode`.
            convert_to_tensor: return a tensor, sparse unless `convert_to_sparse_tensor` is False.
            convert_to_sparse_tensor: True returns a sparse COO tensor, False a dense one of shape (n, hidden_dim).
            normalize_embeddings: scale each code to unit norm, so that inner products are cosines.
            max_active_dims: active latents; default the head's k.
            device: where the backbone embeds, which moves it; several, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"],
                work in processes of their own; a script then needs `if __name__ == "__main__":` around what it does.
                Default where it is.
            chunk_size: inputs that such a process gets at a time.
            task: "query" or "document", as for `Backbone.embed`.

        Returns:
            `SparseCodes` of shape (n, k), or a float32 tensor of shape (n, hidden_dim) on the head's device; of one
            input a tensor has one axis.

        Raises:
            ValueError: if it is not fitted, `max_active_dims` exceeds hidden_dim, the prompt is unknown, an image is
                broken, or `inputs` has no order (a set, a dict), is a table, or holds what the backbone does not take.
            TypeError: for an unknown keyword.
        """
        options: EncodeOptions = {"batch_size": batch_size, "show_progress_bar": show_progress_bar, **form}
        said: dict[str, Any] = {name: value for name, value in form.items() if name not in _OPTIONS}
        if "task_metadata" in said:
            return self._encode_task(inputs, said, options)
        rows = self._rows(inputs, {**options, "prompt_name": prompt_name, "prompt": prompt})
        k = _choose_k(options, self.head.config.k, self.head.config.hidden_dim)
        return self._give(encode_embeddings(self.head, rows, k, refine=refine), options, inputs)

    @show_keywords(EncodeOptions, batch_size=32, **_OFF)
    def encode_query(self, inputs: Any, *, project: bool = True, **options: Unpack[EncodeOptions]) -> Any:
        """Encode as queries, with the backbone's prompt and tower for them, if any.

        The code of a query has its largest inner products with the dictionary, of which it keeps four times as many as
        a document has latents: the inner product with a code of `encode_document` then estimates how similar the
        embeddings are, better than that of two codes of `encode`.

        Args:
            inputs: as for `encode`.
            project: False for the code that the head itself gives, as `encode` does.
            **options: keywords of `encode` but `refine`; `max_active_dims` is by default four times the head's k.

        Returns:
            As `encode`.

        Raises:
            ValueError: as `encode` does.
        """
        options = {**options, "task": options.get("task") or "query"}
        if not project:
            return self.encode(inputs, **options)
        config = self.head.config
        k = _choose_k(options, choose_query_k(config.k, config.hidden_dim), config.hidden_dim)
        return self._give(encode_queries(self.head, self._rows(inputs, options), k), options, inputs)

    @show_keywords(EncodeOptions, batch_size=32, **_OFF)
    def encode_document(
        self, inputs: Any, *, refine: bool | Literal["pursuit"] = "pursuit", **options: Unpack[EncodeOptions]
    ) -> Any:
        """Encode as documents, with the backbone's prompt and tower for them, if any.

        Refined codes decode closer to the embedding. Where the backbone compares by cosine, they are scaled so that
        what they decode to has about unit norm: inner products with codes of `encode_query` estimate cosines.

        Args:
            inputs: as for `encode`.
            refine: as for `encode`; False for the code that the head itself gives.
            **options: other keywords of `encode`.

        Returns:
            As `encode`.

        Raises:
            ValueError: as `encode` does.
        """
        options = {**options, "task": options.get("task") or "document"}
        if not refine:
            return self.encode(inputs, **options)
        k = _choose_k(options, self.head.config.k, self.head.config.hidden_dim)
        codes = encode_embeddings(self.head, self._rows(inputs, options), k, refine=refine)
        if self.backbone.similarity_fn_name == "cosine":
            codes = scale_documents(self.head, codes)
        return self._give(codes, options, inputs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the inner products of all pairs of codes, float32, shape (n, m).

        Those of `encode_query` and `encode_document` rank documents. Those of `encode` are cosines with
        `normalize_embeddings=True`.

        Args:
            embeddings1: n `SparseCodes`, or a tensor or array of shape (n, hidden_dim).
            embeddings2: m of them.

        Raises:
            ValueError: for texts, or codes of different widths.
        """
        return multiply_codes(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the inner products of row i with row i, float32, shape (n,); arguments as for `similarity`."""
        return multiply_rows(embeddings1, embeddings2)

    @property
    def similarity_fn_name(self) -> str:
        """How codes are compared, by sentence-transformers' names: "dot"."""
        return "dot"

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What `mteb.evaluate(encoder, tasks)` files its results under; needs the extra `eval`."""
        from csr_hf.evaluation.mteb_model import make_meta

        return make_meta(self.backbone, self.head, self._name)

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
        return subtract_modality_means(self.head, embeddings, self.backbone.modalities_of(_as_list(inputs)))

    def _rows(self, inputs: Any, options: EncodeOptions) -> np.ndarray:
        """Embed inputs as the head takes them; refuse keywords that nothing here takes."""
        _refuse_unknown(options.keys() - _OPTIONS)
        inputs = _as_list(inputs)
        chosen: Any = {name: options[name] for name in _EMBED_OPTIONS if name in options}  # type: ignore[literal-required]
        return self.subtract_modality_means(self.embed(inputs, **chosen), inputs)

    def _give(self, codes: SparseCodes, options: EncodeOptions, inputs: Any) -> Any:
        """Return codes as the caller wants them."""
        if options.get("normalize_embeddings"):
            codes = codes.normalize()
        sparse = options.get("convert_to_sparse_tensor")
        if sparse is None and not options.get("convert_to_tensor"):
            return codes
        tensor = codes.to_torch("dense" if sparse is False else "sparse").to(self.head.device)
        return tensor[0] if _is_single(inputs) else tensor

    def _encode_task(self, batches: Any, said: dict[str, Any], options: EncodeOptions) -> Any:
        from csr_hf.evaluation.mteb_model import MTEB_KEYWORDS, encode_task

        _refuse_unknown(said.keys() - set(MTEB_KEYWORDS))
        chosen: dict[str, Any] = {name: value for name, value in options.items() if name in _TASK_OPTIONS}

        def encode(inputs: list[Any], prompt: str | None, role: str | None) -> SparseCodes:
            ways: dict[str, Any] = {"query": self.encode_query, "document": self.encode_document}
            alone = functools.partial(self.encode, normalize_embeddings=True)
            return ways.get(role or "", alone)(inputs, **{**chosen, "prompt": prompt})

        return encode_task(encode, self.backbone.prompts, batches, said)


def _choose_k(options: EncodeOptions, default: int, most: int) -> int:
    given = options.get("max_active_dims")
    if given is None:
        return default
    if isinstance(given, bool) or not hasattr(given, "__index__") or not 1 <= given <= most:
        raise ValueError(f"`max_active_dims` ({given!r}) must be an integer from 1 to `hidden_dim` ({most}).")
    return int(given)


def _refuse_unknown(names: Set[str]) -> None:
    if names:
        name = min(names)
        known = sorted(_OPTIONS | {"refine"})
        advice = f"Pass {_INSTEAD[name]}." if name in _INSTEAD else suggest(name, known)
        raise TypeError(f"encode got an unexpected keyword argument {name!r}. {advice} See help(encoder.encode).")


def _is_single(inputs: Any) -> bool:
    return isinstance(inputs, str) or is_image(inputs)


def _as_list(inputs: Any) -> Sequence[Any]:
    return [inputs] if _is_single(inputs) else as_sequence(inputs)
