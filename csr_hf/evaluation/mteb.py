"""Methods as models of mteb: one pass of the backbone, codes that stay sparse, our own search."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.codes import subtract_modality_mean
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache import embed_dataset
from csr_hf.embedding.images import ImageColumn, open_image
from csr_hf.evaluation.methods import CodesMatrix, CSRMethod, Method
from csr_hf.evaluation.neighbors import unit_rows

if TYPE_CHECKING:
    import torch
    from mteb.models.model_meta import ModelMeta

    from csr_hf.encoder import CSREncoder

# Their evaluators split, compare or convert rows in ways that a sparse matrix does not know.
_DENSE_TASKS = (
    "Compositionality",
    "MultilabelClassification",
    "PairClassification",
    "Summarization",
    "ZeroShotClassification",
)


class EmbeddingSource:
    """The backbone's embeddings of any texts or images, computed once and kept on disk.

    Args:
        backbone: the frozen model.
        cache_dir: where they are kept, float32; a later run finds them.
        batch_size: inputs in one pass.
        progress: show a bar for what has to be computed.

    Attributes:
        embedded: inputs that were computed, not found.
    """

    def __init__(
        self, backbone: Backbone, cache_dir: str | Path, *, batch_size: int = 32, progress: bool = True
    ) -> None:
        self.backbone, self.cache_dir = backbone, Path(cache_dir)
        self.batch_size, self.progress = batch_size, progress
        self.embedded = 0
        self._recent: dict[tuple[str, str | None], np.ndarray] = {}

    def embed(
        self, inputs: Sequence[str] | ImageColumn, prompt_name: str | None, label: str = "embedding"
    ) -> np.ndarray:
        """Embeddings, float32, shape (n, dim)."""
        if not len(inputs):
            return np.zeros((0, self.backbone.dim), np.float32)
        parts = inputs.hashes() if isinstance(inputs, ImageColumn) else inputs
        digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        key = digest, self.backbone.prompt(prompt_name)
        if key not in self._recent:
            cache = embed_dataset(
                inputs,
                self.backbone,
                self.cache_dir,
                prompt_name=prompt_name,
                batch_size=self.batch_size,
                dtype="float32",
                label=label,
                progress=self.progress,
            )
            self.embedded += 0 if cache.reused else len(inputs)
            self._recent[key] = cache.to_numpy()
        return self._recent[key]

    def forget(self) -> None:
        """Free the memory; the disk keeps everything."""
        self._recent.clear()


class MTEBEncoder:
    """A method on a backbone, as mteb wants its models: `mteb.evaluate(MTEBEncoder(...), tasks)`.

    Retrieval and reranking go through mteb's search protocol (`index`, `search`) to the method's own search; all else
    through `encode`, whose rows stay sparse where mteb's estimators take them so.

    Args:
        source: of the embeddings; shared by all methods.
        method: how they are stored and compared.
        meta: identifies results; default a name and revision that no other model or setting shares.
    """

    def __init__(self, source: EmbeddingSource, method: Method, meta: ModelMeta | None = None) -> None:
        self.source, self.method = source, method
        self.mteb_model_meta = meta or model_meta(source.backbone, method)
        self._ids: list[str] = []
        self._documents: Any = None

    @classmethod
    def from_encoder(cls, encoder: CSREncoder, cache_dir: str | Path, k: int | None = None) -> MTEBEncoder:
        """A CSREncoder at one k, compared as sentence-transformers would: plain codes on both sides, by cosine."""
        method = CSRMethod(encoder.head, k or encoder.head.config.k, refine=False)
        return cls(EmbeddingSource(encoder.backbone, cache_dir), method)

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
        """Rows for mteb's estimators and comparisons, shape (n, dim) or sparse (n, hidden_dim)."""
        vectors = self.method.vectors(self._embed(inputs, task_metadata, prompt_type))
        return np.asarray(vectors) if task_metadata.type in _DENSE_TASKS else vectors

    def index(self, corpus: Any, *, task_metadata: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Store a corpus for `search`."""
        self._ids = list(corpus["id"])
        inputs = _loader(corpus, task_metadata, "document")
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
        """The best documents of each query, or the scores of those that `top_ranked` names."""
        names = list(queries["id"])
        embeddings = self._embed(_loader(queries, task_metadata, "query"), task_metadata, "query")
        if top_ranked is not None:
            return self._rerank(names, embeddings, top_ranked, top_k)
        hits = self._documents.search(embeddings, min(top_k, len(self._ids)))
        return {
            name: {
                self._ids[position]: float(score)
                for position, score in zip(positions, scores, strict=True)
                if position >= 0
            }
            for name, positions, scores in zip(names, hits.positions, hits.scores, strict=True)
        }

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of all pairs, shape (n, m)."""
        import torch
        from mteb.similarity_functions import cos_sim

        if isinstance(embeddings1, CodesMatrix) and isinstance(embeddings2, CodesMatrix):
            return torch.from_numpy((unit_rows(embeddings1) @ unit_rows(embeddings2).T).toarray())
        return cos_sim(np.asarray(embeddings1), np.asarray(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of row i with row i, shape (n,)."""
        import torch
        from mteb.similarity_functions import pairwise_cos_sim

        if isinstance(embeddings1, CodesMatrix) and isinstance(embeddings2, CodesMatrix):
            products = unit_rows(embeddings1).multiply(unit_rows(embeddings2)).sum(axis=1)
            return torch.from_numpy(np.asarray(products).ravel())
        return torch.as_tensor(pairwise_cos_sim(np.asarray(embeddings1), np.asarray(embeddings2)))

    def _rerank(
        self, names: list[str], embeddings: np.ndarray, top_ranked: dict[str, list[str]], top_k: int
    ) -> dict[str, dict[str, float]]:
        place = {name: position for position, name in enumerate(self._ids)}
        found: dict[str, dict[str, float]] = {}
        for name, query in zip(names, embeddings, strict=True):
            documents = top_ranked.get(name, [])
            positions = np.array([place[document] for document in documents], np.int64)
            scores = self._documents.score(query, positions) if len(positions) else np.empty(0)
            best = np.argsort(-scores, kind="stable")[:top_k]
            found[name] = {documents[row]: float(scores[row]) for row in best}
        return found

    def _embed(self, inputs: Any, task_metadata: Any, prompt_type: Any) -> np.ndarray:
        from mteb.models.abs_encoder import get_prompt_name
        from mteb.types import PromptType

        prompt_type = PromptType(prompt_type) if prompt_type is not None else None
        prompt_name = get_prompt_name(self.source.backbone.prompts, task_metadata, prompt_type)
        batches = list(inputs)
        kinds = {kind for kind in ("image", "text") for batch in batches if kind in batch}
        if len(kinds) > 1:
            raise TypeError(
                f"{task_metadata.name} joins an image and a text in one input, and {self.source.backbone.name} has a "
                "tower for each of them, none for both. Leave this task out."
            )
        kind = kinds.pop() if kinds else "text"
        column: Any = [value for batch in batches for value in batch[kind]]
        rows = self.source.embed(
            _image_column(column) if kind == "image" else column, prompt_name, f"embedding {task_metadata.name}"
        )
        return subtract_modality_mean(self.method.head, rows, kind) if isinstance(self.method, CSRMethod) else rows


def model_meta(backbone: Backbone, method: Method, **known: Any) -> ModelMeta:
    """A description that keeps the results of every model, head and setting apart in mteb's cache.

    Args:
        backbone: whose embeddings are used.
        method: its settings become mteb's `experiment_kwargs`, which are part of the cache's path.
        **known: further fields of `ModelMeta`.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    name = backbone.name if "/" in backbone.name else f"local/{backbone.name}"
    if Path(backbone.name).is_absolute() or name.count("/") > 1:
        name = f"local/{Path(backbone.name).name}"
    fields = {
        "name": name,
        "revision": backbone.revision or backbone.fingerprint,
        "similarity_fn_name": ScoringFunction.COSINE,
        "embed_dim": method.head.config.hidden_dim if isinstance(method, CSRMethod) else backbone.dim,
        "modalities": list(reversed(backbone.modalities)),
        "max_tokens": backbone.model.max_seq_length,
        "framework": ["Sentence Transformers", "PyTorch"],
        "model_type": ["sparse" if isinstance(method, CSRMethod) else "dense"],
        "experiment_kwargs": method.settings or None,
    }
    return ModelMeta.create_empty(overwrites={**fields, **known})


def _image_column(pictures: Sequence[Any]) -> ImageColumn:
    """Images that a task holds in memory."""
    from datasets import Dataset, Features, Image

    rows = {"image": [open_image(picture, f"image {row}") for row, picture in enumerate(pictures)]}
    return ImageColumn(Dataset.from_dict(rows, features=Features({"image": Image()})), "image")


def _loader(dataset: Any, task_metadata: Any, prompt_type: str) -> Any:
    """Batches of texts as mteb itself builds them: titles, instructions and all."""
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    role = PromptType(prompt_type)
    return create_dataloader(dataset, task_metadata=task_metadata, prompt_type=role, batch_size=1024)
