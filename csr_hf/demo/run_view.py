"""`RunView`: a finished run as the page shows it: documents, codes, names of latents, dense embeddings."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.codes import decoded_norms, head_fingerprint, read_atoms, subtract_modality_mean
from csr_hf.demo.dense import find_dense
from csr_hf.demo.uploads import open_upload
from csr_hf.embedding.images import is_image, make_thumbnail
from csr_hf.evaluation.similarity import unit_rows
from csr_hf.explain.latents import Latents
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.gallery import find_picture
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.searcher import RunSearcher
from csr_hf.search.documents import read_rows
from csr_hf.search.index import InvertedIndex
from csr_hf.search_index import SearchIndex
from csr_hf.search_inputs import TEXT, THUMBNAIL
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)

LONGEST = 5000
"""Characters of a question or text that are read."""
_QUESTIONS = 5
_KEPT_QUERIES, _KEPT_PICTURES = 512, 4
_PACKED_SAMPLE = 2000


class Query(NamedTuple):
    """A text or a picture that was embedded."""

    raw: np.ndarray
    """Embedding as the backbone makes it, float32, shape (input_dim,)."""
    row: np.ndarray
    """As the head takes it, less the mean of its modality, float32, shape (input_dim,)."""
    milliseconds: float
    """That embedding it took."""
    picture: bytes | None = None
    """A small JPEG of a picture."""


class Document(NamedTuple):
    """What is shown of a document."""

    id: str
    text: str
    thumbnail: bytes | None
    """A small JPEG of a picture."""


class CodesAt(NamedTuple):
    """The codes of all documents, of k latents each."""

    codes: SparseCodes
    matrix: csr_matrix
    """The same, by document."""
    norms: np.ndarray
    """Of what they decode to, float32, shape (n,)."""
    row_bytes: int
    """Of a packed code, at most."""


class RunView:
    """A finished run as the page shows it; `RunView.open` opens it. Any number of threads may ask it.

    Args:
        title: of the page.
        searcher: of the run, with an index of the library's own, and a backbone.
        latents: names of latents; None where nobody has named them.
        dense: embeddings of the documents by position, float32, shape (n, input_dim); None without.
        notes: what the page says at its top, sentences.
        questions: to pick from.
    """

    def __init__(
        self,
        title: str,
        searcher: RunSearcher,
        latents: Latents | None,
        dense: np.ndarray | None,
        notes: Sequence[str],
        questions: Sequence[str],
    ) -> None:
        if not isinstance(searcher.index, SearchIndex) or searcher.encoder.backbone is None:
            raise ValueError("the page needs an index of the library's own, and a backbone for its questions.")
        self.title, self.searcher, self.latents = title, searcher, latents
        self.notes, self.questions = tuple(notes), tuple(questions)
        self.head: CSRModel = searcher.encoder.head
        self.backbone: Backbone = searcher.encoder.backbone
        self.index: InvertedIndex = searcher.index.index
        self.alive, self.codes = self.index.alive, self.index.codes
        self.atoms = read_atoms(self.head)
        self.bias: np.ndarray = self.head.pre_bias.detach().float().cpu().numpy()
        self.by_dot = self.index.similarity == "dot"
        self.dense = dense if dense is None or self.by_dot else unit_rows(dense)
        active = self.codes.indices[self.alive][self.codes.values[self.alive] > 0]
        counts = np.bincount(active.astype(np.int64), minlength=self.index.dim)
        self.fires: np.ndarray = counts / max(int(self.alive.sum()), 1)
        """Share of the documents that have each latent, float64, shape (hidden_dim,)."""
        self._lock, self._by_k = threading.Lock(), dict[int, CodesAt]()
        self.embed = functools.lru_cache(_KEPT_QUERIES)(self._embed)
        self.embed_picture = functools.lru_cache(_KEPT_PICTURES)(self._embed_picture)

    @classmethod
    def open(
        cls, folder: str | Path, *, title: str = "", device: str | None = None, trust_remote_code: bool = False
    ) -> RunView:
        """Open the output folder of `csr-hf run` or `csr-hf index`, or the folder of a Space.

        Args:
            folder: with head, index and texts.
            title: default the name of the folder.
            device: of backbone and head; default the best there is.
            trust_remote_code: run code of the backbone's repository.

        Raises:
            ValueError: if a part of it is missing or damaged.
        """
        files = RunFolder.of(folder)
        searcher = RunSearcher.load(folder, device=device, trust_remote_code=trust_remote_code)
        index, backbone = searcher.index, searcher.encoder.backbone
        if not isinstance(index, SearchIndex) or backbone is None:
            raise ValueError(f"{folder} has no backbone, so that no question can be embedded.")
        latents, notes = _read_latents(files, head_fingerprint(searcher.encoder.head))
        dense = find_dense(files, index.index, backbone) if len(index) else None
        if dense is not None and dense.rows is None:
            notes.append(dense.reason)
        if not len(index):
            notes.append(f"The index is empty. `csr-hf add {files.path.name} FILE` adds documents.")
        questions = _find_questions(files, index)
        rows = None if dense is None else dense.rows
        return cls(title or files.path.resolve().name, searcher, latents, rows, notes, questions)

    @property
    def k(self) -> int:
        """Latents of a stored code, at most."""
        return max(min(self.index.k, self.codes.k), 1)

    @property
    def size(self) -> int:
        """Documents that can be found."""
        return int(self.alive.sum())

    @property
    def index_bytes(self) -> float:
        """Bytes of a document in the index, without what does not grow with the documents, such as the head."""
        return self.index.bytes_per_document

    @property
    def takes_pictures(self) -> bool:
        """Whether a question may be a picture."""
        return "image" in self.backbone.modalities

    @property
    def has_pictures(self) -> bool:
        """Whether documents are shown by pictures."""
        documents = self.index.documents
        return documents is not None and THUMBNAIL in documents.column_names

    def name(self, latent: int) -> str:
        """Return the name of a latent, or its number in words."""
        return f"latent {latent}" if self.latents is None else self.latents.name(latent)

    def codes_at(self, k: int) -> CodesAt:
        """Return the codes with the k largest latents of each; computed once for a k."""
        with self._lock:
            if k not in self._by_k:
                codes = self.codes.truncate(k) if k < self.codes.k else self.codes
                norms = np.maximum(decoded_norms(self.head, codes), 1e-12)
                self._by_k[k] = CodesAt(codes, codes.to_scipy(), norms, self._measure_row(codes, k))
            return self._by_k[k]

    def read(self, positions: Sequence[int]) -> list[Document]:
        """Read what is shown of documents."""
        ids = self.index.ids_of(np.asarray(positions, np.int64)).tolist()
        documents = self.index.documents
        rows: list[dict[str, Any]] = [{}] * len(ids) if documents is None else read_rows(documents, positions)
        return [
            Document(str(one), str(row.get(TEXT) or ""), self._find_picture(row.get(THUMBNAIL), str(one)))
            for one, row in zip(ids, rows, strict=True)
        ]

    def _find_picture(self, thumbnail: bytes | None, name: str) -> bytes | None:
        """Return the picture of a document; none where its file is gone or broken."""
        try:
            return find_picture(thumbnail, name, open_files=self.has_pictures)
        except (ValueError, ImportError) as error:
            logger.warning("%s", error)
            return None

    def _embed(self, text: str, task: str = "query") -> Query:
        """Embed a text, whatever it looks like: what a stranger types never opens a file.

        Raises:
            ValueError: for an empty text, or a backbone of images alone.
        """
        if not text.strip():
            raise ValueError('Ask in words, such as "how do I read a file".')
        if "text" not in self.backbone.modalities:
            raise ValueError("The backbone of this run embeds pictures alone, so that no words find anything.")
        # Strings that end like an image, or begin like a data URL, would be taken for one.
        return self._embed_one(f" {text} " if self.takes_pictures else text, "text", task)

    def _embed_picture(self, content: bytes) -> Query:
        """Embed a picture that a stranger sends.

        Args:
            content: of an image file.

        Raises:
            ValueError: if it is none that can be read, is too large, or the backbone embeds texts alone.
        """
        if not self.takes_pictures:
            raise ValueError("The backbone of this run embeds texts alone. Ask in words.")
        picture = open_upload(content)
        return self._embed_one(picture, "image", "query")._replace(picture=make_thumbnail(picture))

    def _embed_one(self, given: Any, modality: str, task: str) -> Query:
        start = time.perf_counter()
        raw = self.backbone.embed([given], task=task, show_progress_bar=False)  # type: ignore[arg-type]
        milliseconds = 1000 * (time.perf_counter() - start)
        row = subtract_modality_mean(self.head, raw, modality) if self.head.config.modalities else raw
        return Query(np.asarray(raw[0], np.float32), np.asarray(row[0], np.float32), milliseconds)

    def _measure_row(self, codes: SparseCodes, k: int) -> int:
        """Return the bytes of a packed code of k latents: those of the index, or fewer."""
        stored, bits = int(self.index.settings["row_bytes"]), int(self.index.settings["bits"])
        if k >= self.k or not len(codes):
            return stored
        return min(stored, codes[: min(len(codes), _PACKED_SAMPLE)].pack(bits).row_bytes)


def _read_latents(files: RunFolder, head: str) -> tuple[Latents | None, list[str]]:
    """Read the names of latents, and word a note where there are none."""
    command = f"`csr-hf explain {files.path.name}` names them."
    if not files.latents.is_file():
        return None, [f"Latents are shown by their numbers. {command}"]
    try:
        return Latents.load(files.latents, head=head), []
    except ValueError as error:
        logger.warning("latents are shown by their numbers: %s", error)
        return None, [f"The names of latents cannot be read, or are of another head. {command}"]


def _find_questions(files: RunFolder, index: SearchIndex) -> list[str]:
    """Return sample questions: those of the recipe, and of pairs in the index."""
    recipe = RunRecipe.load(files.recipe) if files.recipe.is_file() else None
    found = list(recipe.index.questions) if recipe is not None else []
    documents = index.index.documents
    if documents is not None and len(found) < _QUESTIONS:
        column = next((name for name in ("anchor", TEXT) if name in documents.column_names), None)
        alive = np.flatnonzero(index.index.alive)
        steps = alive[:: max(1, len(alive) // _QUESTIONS)][:_QUESTIONS] if column else alive[:0]
        texts = (documents[column][int(at)].as_py() for at in steps)
        found += [" ".join(str(text).split()) for text in texts if text and not is_image(str(text))]
    return [text if len(text) <= 80 else f"{text[:77]}..." for text in dict.fromkeys(found)][:_QUESTIONS]
