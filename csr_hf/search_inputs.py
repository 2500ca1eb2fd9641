"""What a search index is given: texts, images, embeddings and tables, and the encoder that embeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from csr_hf.codes import subtract_modality_means
from csr_hf.embedding.images import is_image, make_thumbnail, names_missing_image
from csr_hf.embedding.inputs import as_sequence
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.heads import load_head
from csr_hf.plumbing.float_rows import as_float_rows, to_array
from csr_hf.repository import open_repository
from csr_hf.runs.folder import RunFolder
from csr_hf.search.documents import TEXT, make_documents

if TYPE_CHECKING:
    import pyarrow as pa

    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

THUMBNAIL = "thumbnail"
"""Column of small JPEG files of images."""
ID = "id"
"""Column of a table that names its documents."""


class Encoder(Protocol):
    """What a search needs to embed and encode: a `CSREncoder` has it."""

    @property
    def backbone(self) -> Backbone | None:
        """Embeds texts and images; None where there are embeddings alone."""

    @property
    def head(self) -> CSRModel:
        """Encodes embeddings."""


def embed(
    encoder: Encoder, inputs: Sequence[Any], task: Literal["query", "document"], prompt_name: str | None = None
) -> np.ndarray:
    """Embed texts and images, less the mean of their modality for a head of several: float32, shape (n, input_dim).

    Args:
        encoder: with a backbone.
        inputs: texts, images or both.
        task: chooses the prompt, and the tower of a `Router`.
        prompt_name: one of the backbone's prompts, instead of that of the task.
    """
    if not hasattr(encoder, "backbone"):
        raise ValueError(
            f"`encoder` ({type(encoder).__name__}) must be a CSREncoder. `CSREncoder.from_pretrained` loads one."
        )
    if encoder.backbone is None:
        raise ValueError("there is no backbone to embed texts. Load the index with `texts=True`, or pass an encoder.")
    embeddings = encoder.backbone.embed(inputs, prompt_name, task=task)
    if not encoder.head.config.modalities:
        return embeddings
    return subtract_modality_means(encoder.head, embeddings, encoder.backbone.modalities_of(inputs))


def embed_queries(encoder: Encoder, queries: Any) -> tuple[np.ndarray, bool]:
    """Return embeddings of queries, and whether it is one query alone.

    Args:
        encoder: with a backbone, unless they are embeddings.
        queries: a text, an image or an embedding, or several of them.

    Raises:
        ValueError: for an empty text, the path of an image that is not there, and texts where there is no backbone.
    """
    if _is_numeric(queries):
        single = np.ndim(queries) == 1
        return to_array(as_float_rows(queries[None] if single else queries, "`queries`")), single
    single = isinstance(queries, str) or is_image(queries)
    asked = [queries] if single else list(as_sequence(queries, "queries"))
    for question in asked:
        if isinstance(question, str) and not question.strip():
            raise ValueError('a query is empty. Ask in words: "how do I ...".')
    backbone = encoder.backbone
    if backbone is None:
        raise ValueError("`queries` are no embeddings, and there is no backbone to embed them. Pass embeddings.")
    for question in asked if "image" in backbone.modalities else ():
        if isinstance(question, str) and names_missing_image(question):
            raise ValueError(f"{question} is no file, though it ends like an image. Correct the path, or add words.")
    return embed(encoder, asked, "query"), single


class _Loaded(NamedTuple):
    """An `Encoder` of the parts of a folder."""

    backbone: Backbone | None
    head: CSRModel


def load_encoder(files: RunFolder, *, device: str | None, texts: bool, trust_remote_code: bool) -> Encoder:
    """Load the head of a folder and the backbone that it names.

    Args:
        files: the folder.
        device: of both; default the best there is.
        texts: False loads no backbone.
        trust_remote_code: run code of the backbone's repository.

    Raises:
        ValueError: if there is no head, or its backbone is not found.
    """
    if not files.model_config.is_file():
        raise ValueError(f"{files.path} has no {files.model.name}: it holds no head. Pass `encoder`.")
    repository = open_repository(files.model)
    head = load_head(repository).eval()
    if not texts:
        return _Loaded(None, head)
    backbone = load_backbone_of(repository, head, device=device, trust_remote_code=trust_remote_code)
    return _Loaded(backbone, head.to(backbone.model.device))


def split_table(texts: Any, ids: Any, metadata: Any) -> tuple[Sequence[Any], Any, Any]:
    """Return texts, ids and metadata, also where a table holds them all.

    Raises:
        ValueError: for a table without a column of texts, and what is no list of inputs.
    """
    names = getattr(texts, "column_names", None)
    if names is None and hasattr(texts, "columns") and not isinstance(texts, Mapping):
        names = [str(name) for name in texts.columns]
    if names is None:
        return as_sequence(texts, "texts"), ids, metadata
    if TEXT not in names:
        raise ValueError(
            f"`texts` is a table without a column {TEXT!r}; it has {', '.join(names)}. Rename one of them."
        )
    if ids is None and ID in names:
        ids = texts[ID]
    others = [name for name in names if name not in (TEXT, ID)]
    if metadata is None and others:
        metadata = {name: texts[name] for name in others}
    column = texts[TEXT]
    return as_sequence(column.to_pylist() if hasattr(column, "to_pylist") else list(column), "texts"), ids, metadata


def describe_documents(inputs: Sequence[Any], metadata: Any) -> pa.Table | None:
    """Put texts, paths and thumbnails of images, and metadata into one table."""
    shown = [str(one) if isinstance(one, str | Path) else None for one in inputs]
    unseen = [at for at, one in enumerate(inputs) if shown[at] is None and is_image(one)]
    table = make_documents(shown, metadata, len(inputs))
    if table is None or not unseen:
        return table
    import pyarrow as pa

    pictures = {at: make_thumbnail(inputs[at]) for at in unseen}
    column = pa.array([pictures.get(at) for at in range(len(inputs))], pa.large_binary())
    return table if THUMBNAIL in table.column_names else table.append_column(THUMBNAIL, column)


def _is_numeric(queries: Any) -> bool:
    """Tell embeddings from texts and images: arrays and tensors of floats with one dimension or two."""
    is_array = hasattr(queries, "dtype") and hasattr(queries, "shape") and len(queries.shape) in (1, 2)
    return is_array and "float" in str(queries.dtype)
