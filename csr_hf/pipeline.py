"""A run from beginning to end: embed -> train -> evaluate -> index -> search. Each step stands alone too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.atomic import check_writable, written_whole
from csr_hf.backbone import Backbone, load_backbone
from csr_hf.encoder import CSREncoder, encode_embeddings, project_queries
from csr_hf.evaluation.results import Results
from csr_hf.recipe import EvaluationArguments, Recipe, versions
from csr_hf.search.index import InvertedIndex
from csr_hf.training.data import TextData, load_texts
from csr_hf.training.embeddings import EmbeddingCache, embed_dataset

if TYPE_CHECKING:
    from datasets import Dataset

    from csr_hf.modeling_csr import CSRModel

Say = Callable[[str], None]
"""Takes one line of news for the user."""

_CHECKPOINTS, _LOG = "checkpoints", "training_log.jsonl"
_MODEL, _INDEX, _DOCUMENTS, _RECIPE, _PLOT = "model", "index", "documents.parquet", "recipe.yaml", "retention.png"


@dataclass
class Embedded:
    """Texts and their embeddings, by role."""

    backbone: Backbone
    texts: TextData
    caches: dict[str, EmbeddingCache]

    @cached_property
    def train(self) -> np.ndarray:
        """Embeddings of all roles that may be trained on, shape (n, dim), as stored."""
        rows = ~self.texts.held_out
        return np.concatenate([cache.to_numpy(rows) for cache in self.caches.values()])

    @property
    def documents(self) -> np.ndarray:
        """Embeddings of every document, held out or not."""
        return self.caches[self.texts.document_role].to_numpy()

    def held_out(self, role: str) -> np.ndarray:
        """Embeddings of a role's held-out texts."""
        return self.caches[role].to_numpy(self.texts.held_out)


class Hit(NamedTuple):
    """One answer."""

    score: float
    """Cosine of the dense query and the decoded document."""
    id: str
    text: str


def run(recipe: Recipe, *, say: Say, progress: bool = True, resume: bool = False, command: str = "") -> Results | None:
    """All steps of a recipe; everything lands in its `output_dir`.

    Args:
        recipe: what to do.
        say: told what happens.
        progress: show bars.
        resume: go on from the newest checkpoint of the output folder.
        command: the command line, recorded with the results.

    Returns:
        The results; None when nothing was held out.

    Raises:
        ValueError: for whatever is wrong with the input, before anything is written.
    """
    embedded = embed(recipe, say=say, progress=progress)
    head = train(recipe, embedded, say=say, progress=progress, resume=resume)
    results = evaluate(recipe, embedded, head, say=say, command=command)
    build_index(recipe, embedded, head, say=say)
    return results


def embed(recipe: Recipe, *, say: Say, progress: bool = True, backbone: Backbone | None = None) -> Embedded:
    """Load backbone and texts, and embed every role once.

    Args:
        recipe: what to embed.
        say: told what happens.
        progress: show bars.
        backbone: the recipe's, if it is loaded already.

    Raises:
        ValueError: for an unknown backbone, unreadable data, or a folder that cannot be written.
    """
    check_writable(recipe.output_dir)
    check_writable(recipe.embeddings_dir)
    arguments = recipe.backbone
    if backbone is None:
        backbone = load_backbone(arguments.name_or_path, revision=arguments.revision, device=arguments.device)
    say(f"backbone   {backbone.name}, {backbone.dim} dimensions, from {backbone.source}")
    _config(recipe, backbone)
    texts = load_texts(recipe.data)
    held_out = int(texts.held_out.sum())
    say(f"data       {texts.name}: {len(texts):,} rows of {' + '.join(texts.roles)}, {held_out:,} held out")
    caches = {}
    for role in texts.roles:
        cache = embed_dataset(
            texts.dataset[role],
            backbone,
            recipe.embeddings_dir,
            prompt_name=texts.prompt_name(role),
            batch_size=arguments.batch_size,
            label=f"embedding {role}",
            progress=progress,
        )
        say(f"embeddings {role}: {len(cache):,} x {cache.dim} {'found in' if cache.reused else '->'} {cache.folder}")
        caches[role] = cache
    return Embedded(backbone, texts, caches)


def train(recipe: Recipe, embedded: Embedded, *, say: Say, progress: bool = True, resume: bool = False) -> CSRModel:
    """Train a head on everything that is not held out, and save it with the resolved recipe.

    Raises:
        ValueError: for sizes that do not fit, embeddings that are not finite, or nothing to train on.
        NonFiniteLossError: if the training diverges; the last good checkpoint is kept.
    """
    import torch

    from csr_hf.modeling_csr import CSRModel
    from csr_hf.training.trainer import CSRTrainer

    config = _config(recipe, embedded.backbone)
    torch.manual_seed(recipe.training.seed)
    folder = Path(recipe.output_dir)
    trainer = CSRTrainer(CSRModel(config), recipe.training, embedded.train, folder)
    if not resume:
        shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
        (folder / _LOG).unlink(missing_ok=True)
    figures = trainer.train(resume_from_checkpoint=resume, progress=progress)
    head = trainer.model
    save_model(head, recipe, folder, {"results": {name: round(value, 6) for name, value in figures.items()}})
    say(
        f"head       {config.input_dim} -> {config.hidden_dim}, k {config.k}: explained variance "
        f"{figures['explained_variance']:.3f}, dead {figures['dead_fraction']:.1%}, "
        f"{figures['postings_per_document']:.2f} postings a document and query, {figures['seconds']:.0f} s"
    )
    return head


def save_model(head: CSRModel, recipe: Recipe, folder: Path, extra: dict[str, Any]) -> None:
    """Write `model/` whole or not at all, and the resolved recipe beside it and inside it."""
    with written_whole(folder / _MODEL) as temporary:
        head.save_pretrained(temporary)
        recipe.save(temporary / _RECIPE, extra)
    recipe.save(folder / _RECIPE, extra)


def evaluate(recipe: Recipe, embedded: Embedded, head: CSRModel, *, say: Say, command: str = "") -> Results | None:
    """Measure the head on the held-out rows, write `results.json`, `results.md` and the plot.

    Pairs are measured by what their first half finds; single texts by the neighbours of every fifth among the rest.
    """
    from csr_hf.evaluation.methods import all_methods
    from csr_hf.evaluation.retrieval import NDCG, RECALL, evaluate_retrieval

    texts, arguments = embedded.texts, recipe.evaluation
    documents = embedded.held_out(texts.document_role)
    if len(documents) < 20:
        say(f"results    none: {len(documents)} rows are held out, too few to measure (`data.held_out`)")
        return None
    if texts.is_pairs:
        queries, task = embedded.held_out("anchor"), f"{texts.name}, {len(documents):,} held-out pairs"
    else:
        asked = np.arange(len(documents)) % 5 == 0
        queries, documents = documents[asked], documents[~asked]
        task = f"{texts.name}, {len(queries):,} held-out texts among {len(documents):,}"
    methods = all_methods(
        head,
        embedded.train,
        ks=arguments.ks,
        baselines=arguments.baselines,
        two_stage=arguments.two_stage,
        query_k_factor=arguments.query_k_factor,
        candidates=arguments.candidates,
    )
    rows = evaluate_retrieval(methods, queries, documents, task=task, paired=texts.is_pairs)
    found = versions()
    note = (
        f"queries keep {arguments.query_k_factor} x k latents; CSR: documents with least-squares values; "
        f"CSR, decoded: documents by matching pursuit, the dense query against the best {arguments.candidates} of "
        "them decoded; CSR + int8: the dense query against int8 copies of them; bytes are those stored for a document"
    )
    details = {"command": command, "machine": found.pop("machine"), "versions": found, "note": note}
    results = Results(rows, details)
    results.save(recipe.output_dir)
    _plot(results, Path(recipe.output_dir) / _PLOT, NDCG if texts.is_pairs else RECALL, say)
    return results


def build_index(recipe: Recipe, embedded: Embedded, head: CSRModel, *, say: Say) -> InvertedIndex:
    """Index every document of the corpus, and keep the texts beside it."""
    from csr_hf.evaluation.retrieval import index_documents

    folder, arguments, texts = Path(recipe.output_dir), recipe.index, embedded.texts
    index = index_documents(head, embedded.documents, arguments.k or head.config.k, refine=arguments.refine)
    index.save(folder / _INDEX)
    kept = texts.dataset.select_columns(["id", texts.document_role]).rename_columns({texts.document_role: "text"})
    with written_whole(folder / _DOCUMENTS) as temporary:
        kept.to_parquet(str(temporary))
    size = f"{index.bytes_per_vector:.0f} bytes each with postings"
    say(f"index      {len(index):,} documents, {size}, in {folder / _INDEX}")
    return index


class RunSearcher:
    """Questions to a finished run: its head, index and texts.

    Args:
        encoder: backbone and head.
        index: of the documents' codes.
        documents: rows with `id` and `text`, in the order of the index.
        settings: query_k_factor and candidates of a search that does not say; `load` takes those of the recipe.
    """

    def __init__(
        self, encoder: CSREncoder, index: InvertedIndex, documents: Dataset, settings: EvaluationArguments
    ) -> None:
        self.settings = settings
        self.encoder = encoder
        self.index = index
        self.documents = documents

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> RunSearcher:
        """Open the output folder of `csr-hf run`.

        Raises:
            ValueError: if a part of it is missing or damaged, or the index was built with another head.
        """
        from datasets import Dataset

        folder = Path(folder)
        for name in (_MODEL, _INDEX, _DOCUMENTS, _RECIPE):
            if not (folder / name).exists():
                raise ValueError(f"{folder} has no {name}: it is not a finished run. `csr-hf run RECIPE` makes one.")
        index = InvertedIndex.load(folder / _INDEX)
        encoder = CSREncoder.from_pretrained(folder / _MODEL, device=device)
        if index.head != encoder.fingerprint:
            raise ValueError(
                f"{folder / _INDEX} was built with another head ({index.head}) than {folder / _MODEL} "
                f"({encoder.fingerprint}). Run the recipe again, or index the documents with this head."
            )
        settings = Recipe.load(folder / _RECIPE).evaluation
        return cls(encoder, index, Dataset.from_parquet(str(folder / _DOCUMENTS)), settings)

    def search(
        self, question: str, top_k: int = 5, *, query_k: int | None = None, candidates: int | None = None
    ) -> list[Hit]:
        """The best documents for a question, self-rescored.

        Args:
            question: any text.
            top_k: answers wanted.
            query_k: latents of the query; default as the run was measured.
            candidates: documents that the first stage hands to the second; default as the run was measured.
        """
        head = self.encoder.head
        query_k = min(query_k or self.settings.query_k_factor * self.index.k, head.config.hidden_dim)
        embedding = self.encoder.embed(question, prompt_name="query")
        found = self.index.search(
            encode_embeddings(head, embedding, query_k),
            top_k,
            rescore="self",
            candidates=max(candidates or self.settings.candidates, top_k),
            projections=project_queries(head, embedding),
        )
        hits = []
        for position, score in zip(found.positions[0], found.scores[0], strict=True):
            if position >= 0:
                row = self.documents[int(position)]
                hits.append(Hit(float(score), row["id"], row["text"]))
        return hits


def check_sizes(recipe: Recipe, backbone: Backbone) -> None:
    """Find out before any training whether the head's sizes fit.

    Raises:
        ValueError: if they do not.
    """
    _config(recipe, backbone)


def _config(recipe: Recipe, backbone: Backbone) -> Any:
    """The head's configuration; made early, so that sizes that do not fit stop the run before the embedding."""
    from csr_hf.configuration_csr import CSRConfig

    model = recipe.model
    return CSRConfig(
        input_dim=backbone.dim,
        hidden_dim=model.hidden_dim_for(backbone.dim),
        k=model.k,
        k_aux=model.k_aux,
        dead_threshold=model.dead_threshold,
        tied_decoder=model.tied_decoder,
        base_model_name_or_path=backbone.name,
        base_model_revision=backbone.revision,
    )


def _plot(results: Results, path: Path, metric: str, say: Say) -> None:
    from csr_hf.evaluation.plots import plot_retention

    try:
        plot_retention(results, path, metric)
    except ImportError as error:
        say(f"plot       none: {error}")
