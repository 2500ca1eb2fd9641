"""What the folder of a run holds: the one place that knows the names of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = "results.json"
"""File of figures, in the folder of a run and in those of what is measured later."""
LATENTS = "latents.json"
"""File of what is known of a head's latents, in the folder of a run and in a published model."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the output folder of a run; none of them need exist.

    Args:
        path: the output folder.
    """

    path: Path

    @classmethod
    def of(cls, path: str | Path) -> RunFolder:
        """Return the run folder at a path."""
        return cls(Path(path))

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a trained head and the recipe that made it."""
        return self.model_config.is_file() and self.recipe.is_file()

    @property
    def model(self) -> Path:
        """Folder of the head: `CSRModel.from_pretrained` reads it."""
        return self.path / "model"

    @property
    def model_config(self) -> Path:
        """JSON file of the head's sizes."""
        return self.model / "config.json"

    @property
    def index(self) -> Path:
        """Folder of the search index of all documents."""
        return self.path / "index"

    @property
    def documents(self) -> Path:
        """Parquet file of what a search of a backend shows; an index has texts of its own."""
        return self.path / "documents.parquet"

    @property
    def has_texts(self) -> bool:
        """Whether texts are kept, beside the index or for a search backend."""
        return self.documents.is_file() or any(self.index.glob("*.documents.arrow"))

    @property
    def recipe(self) -> Path:
        """YAML file of the resolved recipe, with `versions` and `results`."""
        return self.path / "recipe.yaml"

    @property
    def model_recipe(self) -> Path:
        """The same recipe inside the folder of the head, which it travels with."""
        return self.model / "recipe.yaml"

    @property
    def results(self) -> Path:
        """JSON file of the figures on held-out rows."""
        return self.path / RESULTS

    @property
    def plot(self) -> Path:
        """PNG file of retention against bytes."""
        return self.path / "retention.png"

    @property
    def sweep_plot(self) -> Path:
        """PNG file of a sweep: score against what it varied."""
        return self.path / "sweep.png"

    @property
    def combinations(self) -> list[Path]:
        """Folders of a sweep's combinations, each a run of its own, as far as something of it exists."""
        return sorted(path for path in self.path.glob("hidden_dim=*,k=*,max_steps=*") if RunFolder.of(path).contents)

    @property
    def latents(self) -> Path:
        """JSON file of what is known of the head's latents: their names, when they fire."""
        return self.path / LATENTS

    @property
    def latents_page(self) -> Path:
        """HTML page of the same."""
        return self.path / "latents.html"

    @property
    def dense(self) -> Path:
        """NPY file of the documents' embeddings, by position in the index: a Space has it, whose data is elsewhere."""
        return self.path / "dense.npy"

    @property
    def mteb(self) -> Path:
        """Folder of results on MTEB tasks, with a `results.json` and a plot of its own."""
        return self.path / "evaluation"

    @property
    def checkpoints(self) -> Path:
        """Folder of training checkpoints."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """JSON lines file of the training curve."""
        return self.path / "training_log.jsonl"

    @property
    def streams(self) -> Path:
        """Folder of embeddings that were given to the trainer as streams."""
        return self.path / "streams"

    @property
    def trackers(self) -> Path:
        """Folder of the events of Accelerate's trackers."""
        return self.path / "trackers"

    @property
    def journal(self) -> Path:
        """File of what an upload to a search backend has sent."""
        return self.path / "upload.journal"

    @property
    def state(self) -> Path:
        """JSON file of what the run is made of, and which steps of it are done."""
        return self.path / "state.json"

    @property
    def embeddings(self) -> Path:
        """Default folder of embedding caches, beside the run: shared by its neighbors."""
        return self.path.parent / "embeddings"

    @property
    def measured(self) -> list[Path]:
        """Files and folders of what was measured and built of the head, as far as they exist."""
        files = (
            self.results,
            self.results.with_suffix(".md"),
            self.plot,
            self.sweep_plot,
            self.documents,
            self.journal,
            self.latents,
            self.latents_page,
            self.dense,
        )
        return [path for path in (*files, self.index, self.mteb) if path.exists()]

    def check_unmeasured(self) -> None:
        """Refuse a folder with figures or an index of an earlier head, before another head is trained into it.

        Raises:
            ValueError: naming them.
        """
        if self.measured:
            names = ", ".join(path.name for path in self.measured)
            raise ValueError(
                f"{self.path} holds {names} of an earlier head. Choose another `output_dir`, or remove them first."
            )

    @property
    def contents(self) -> list[Path]:
        """All that runs and trainings write into the folder but a sweep's combinations, as far as it exists."""
        trained = (self.model, self.recipe, self.checkpoints, self.log, self.streams, self.trackers, self.state)
        return [*self.measured, *(path for path in trained if path.exists())]

    def missing(self, *paths: Path) -> Iterator[str]:
        """Yield the names, inside the folder, of those paths that do not exist."""
        return (str(path.relative_to(self.path)) for path in paths if not path.exists())
