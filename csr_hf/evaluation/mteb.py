"""Methods as models of mteb: one pass of the backbone, codes that stay sparse, csr_hf's search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.images import ImageColumn, open_image
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod
from csr_hf.evaluation.method import Method, Searcher
from csr_hf.evaluation.similarity import unit_rows

if TYPE_CHECKING:
    import torch
    from mteb.models.model_meta import ModelMeta
    from mteb.types import EncodeKwargs, PromptType

    from csr_hf.modeling_csr import CSRModel

ENCODE_KWARGS: EncodeKwargs = {"batch_size": 1024, "show_progress_bar": False}
"""Given to `mteb.evaluate`: inputs that are handed to `MTEBEncoder` at a time."""

# The evaluators of these split, compare or convert rows in ways that sparse matrices do not support.
_DENSE_TASKS = (
    "Compositionality",
    "MultilabelClassification",
    "PairClassification",
    "Summarization",
    "ZeroShotClassification",
)


class MTEBEncoder:
    """A method on a backbone, as mteb takes its models: `mteb.evaluate(MTEBEncoder(...), tasks)`.

    Retrieval and reranking go through mteb's search protocol (`index`, `search`) to the searcher of the method;
    everything else through `encode`, whose rows stay sparse where mteb's estimators take them so.

    Args:
        cached: the backbone; shared by all methods.
        method: how embeddings are stored and compared.
        meta: identifies results; default a name and revision that no other model or setting shares.
    """

    def __init__(self, cached: CachedBackbone, method: Method, meta: ModelMeta | None = None) -> None:
        self.cached, self.method = cached, method
        self.mteb_model_meta = meta or model_meta(cached, method)
        self._ids: list[str] = []
        self._documents: Searcher | None = None

    @classmethod
    def from_head(cls, backbone: Backbone, head: CSRModel, cache_dir: str | Path, k: int | None = None) -> MTEBEncoder:
        """Make the model that compares plain codes of both sides as sentence-transformers does.

        That is by cosine, or by dot product where the backbone compares by it.

        Args:
            backbone: the frozen model.
            head: of this backbone.
            cache_dir: where embeddings are kept.
            k: active latents; default the head's.
        """
        method = CSRMethod(head, k or head.config.k, plain=True, similarity=backbone.similarity_fn_name)
        return cls(CachedBackbone(backbone, cache_dir), method)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray | CodesMatrix:
        """Compute rows for mteb's estimators and comparisons, shape (n, dim) or sparse (n, hidden_dim)."""
        vectors = self.method.vectors(self._embed(inputs, task_metadata, prompt_type))
        return np.asarray(vectors) if task_metadata.type in _DENSE_TASKS else vectors

    def index(self, corpus: Any, *, task_metadata: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Store a corpus for `search`."""
        self._ids = list(corpus["id"])
        inputs = _batches(corpus, task_metadata, "document")
        self._documents = self.method.index(self._embed(inputs, task_metadata, "document"))

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """Find the best documents of each query, or score the documents that `top_ranked` names.

        Raises:
            RuntimeError: if no corpus was given to `index`.
        """
        if self._documents is None:
            raise RuntimeError("there is no corpus to search in. Call `index` first, as mteb does.")
        names = list(queries["id"])
        embeddings = self._embed(_batches(queries, task_metadata, "query"), task_metadata, "query")
        if top_ranked is not None:
            return self._rerank(self._documents, dict(zip(names, embeddings, strict=True)), top_ranked, top_k)
        hits = self._documents.search(embeddings, min(top_k, len(self._ids)))
        return {
            name: {self._ids[position]: float(score) for position, score in zip(positions, scores, strict=True)}
            for name, positions, scores in zip(names, hits.positions, hits.scores, strict=True)
        }

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the similarities of all pairs by that of the method, shape (n, m)."""
        import torch
        from sentence_transformers import SimilarityFunction

        if isinstance(embeddings1, CodesMatrix) and isinstance(embeddings2, CodesMatrix):
            rows1, rows2 = self._sparse(embeddings1), self._sparse(embeddings2)
            return torch.from_numpy((rows1 @ rows2.T).toarray())
        compare = SimilarityFunction.to_similarity_fn(self.method.similarity)
        return compare(np.asarray(embeddings1), np.asarray(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the similarities of row i with row i by that of the method, shape (n,)."""
        import torch
        from sentence_transformers import SimilarityFunction

        if isinstance(embeddings1, CodesMatrix) and isinstance(embeddings2, CodesMatrix):
            products = self._sparse(embeddings1).multiply(self._sparse(embeddings2)).sum(axis=1)
            return torch.from_numpy(np.asarray(products).ravel())
        compare = SimilarityFunction.to_similarity_pairwise_fn(self.method.similarity)
        return compare(np.asarray(embeddings1), np.asarray(embeddings2))

    def _sparse(self, codes: CodesMatrix) -> CodesMatrix:
        # Codes are compared by cosine or dot product, see `CSRMethod`.
        return codes if self.method.similarity == "dot" else unit_rows(codes)

    def _rerank(
        self, searcher: Searcher, queries: dict[str, np.ndarray], top_ranked: dict[str, list[str]], top_k: int
    ) -> dict[str, dict[str, float]]:
        position_of = {name: position for position, name in enumerate(self._ids)}
        ranked: dict[str, dict[str, float]] = {}
        for name, query in queries.items():
            documents = top_ranked.get(name, [])
            positions = np.array([position_of[document] for document in documents], np.int64)
            scores = searcher.score(query, positions) if len(positions) else np.empty(0)
            best = np.argsort(-scores, kind="stable")[:top_k]
            ranked[name] = {documents[row]: float(scores[row]) for row in best}
        return ranked

    def _embed(self, inputs: Any, task_metadata: Any, prompt_type: Any) -> np.ndarray:
        from mteb.models.abs_encoder import get_prompt_name
        from mteb.types import PromptType

        # As mteb does with a model of sentence-transformers: the prompt of the task, else that of queries or of
        # documents, and either way their tower.
        backbone = self.cached.backbone
        prompt_type = PromptType(prompt_type) if prompt_type is not None else None
        prompt_name = get_prompt_name(backbone.prompts, task_metadata, prompt_type)
        task = None if prompt_type is None else prompt_type.value
        batches = list(inputs)
        modalities = {kind for kind in ("image", "text") for batch in batches if kind in batch}
        if len(modalities) > 1:
            raise TypeError(
                f"{task_metadata.name} joins an image and a text in one input, and {backbone.name} has a tower for "
                "each of them, none for both. Leave this task out."
            )
        modality = modalities.pop() if modalities else "text"
        values: Any = [value for batch in batches for value in batch[modality]]
        column = _image_column(values) if modality == "image" else values
        rows = self.cached.embed(
            column,
            prompt_name,
            task=task,
            prompt=_make_instruction(self.cached.instruction_template, task_metadata, prompt_type),
            label=f"embedding {task_metadata.name}",
        )
        return self.method.center(rows, modality)


def _make_instruction(template: str, task_metadata: Any, prompt_type: PromptType | None) -> str | None:
    """Fill a template with the description of a task, as mteb's wrapper of instruction models does.

    Returns:
        None without a template, and for documents of a search, which such models embed as they are.
    """
    from mteb.abstasks.abstask import get_abstask_prompt

    if not template or (prompt_type is not None and prompt_type.value == "document"):
        return None
    described = task_metadata.prompt
    if isinstance(described, dict):
        described = described.get(prompt_type.value if prompt_type else "query")
    described = described or get_abstask_prompt(task_metadata.name)
    return template.replace("{instruction}", described) if described else None


def model_meta(cached: CachedBackbone, method: Method, **known: Any) -> ModelMeta:
    """Describe a method so that mteb's cache keeps the results of every model, head and setting apart.

    Args:
        cached: computes the embeddings.
        method: its settings become mteb's `experiment_kwargs`, which are part of the cache's path, with the
            fingerprint of a backbone that has settings of its own, and the template of instructions.
        **known: further fields of `ModelMeta`.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    backbone = cached.backbone
    name = backbone.name if "/" in backbone.name else f"local/{backbone.name}"
    if Path(backbone.name).is_absolute() or name.count("/") > 1:
        name = f"local/{Path(backbone.name).name}"
    settings = {**method.settings, **({"backbone": backbone.fingerprint} if backbone.settings.to_record() else {})}
    if cached.instruction_template:
        settings["instruction_template"] = cached.instruction_template
    fields = {
        "name": name,
        "revision": backbone.revision or backbone.fingerprint,
        "similarity_fn_name": ScoringFunction.from_str(method.similarity),
        "embed_dim": method.head.config.hidden_dim if isinstance(method, CSRMethod) else backbone.dim,
        "modalities": list(reversed(backbone.modalities)),
        "max_tokens": backbone.model.max_seq_length,
        "framework": ["Sentence Transformers", "PyTorch"],
        "model_type": ["sparse" if isinstance(method, CSRMethod) else "dense"],
        "experiment_kwargs": settings or None,
    }
    return ModelMeta.create_empty(overwrites={**fields, **known})


def _image_column(images: Sequence[Any]) -> ImageColumn:
    """Make a column of the images that a task holds in memory."""
    from datasets import Dataset, Features, Image

    rows = {"image": [open_image(image, f"image {row}") for row, image in enumerate(images)]}
    return ImageColumn(Dataset.from_dict(rows, features=Features({"image": Image()})), "image")


def _batches(dataset: Any, task_metadata: Any, prompt_type: str) -> Any:
    """Make batches of texts as mteb itself does, with titles and instructions."""
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    role = PromptType(prompt_type)
    return create_dataloader(dataset, task_metadata=task_metadata, prompt_type=role, batch_size=1024)
