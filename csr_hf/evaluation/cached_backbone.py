"""The backbone's embeddings of a task's texts or images, computed once for all methods and for later calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csr_hf.embedding.arguments import Task
from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.cache import embed_dataset, fingerprint_texts
from csr_hf.embedding.images import ImageColumn


class CachedBackbone:
    """A backbone that keeps its embeddings on disk.

    Args:
        backbone: the frozen model.
        cache_dir: where embeddings are kept, float32.
        batch_size: inputs in one pass.
        instruction_template: what is put before the texts of a task, but for documents of a search, with the task's
            own description in place of `{instruction}`; "" for the backbone's prompts.

    Attributes:
        embedded: number of inputs that were computed, not found.
    """

    def __init__(
        self, backbone: Backbone, cache_dir: str | Path, *, batch_size: int = 32, instruction_template: str = ""
    ) -> None:
        self.backbone, self.cache_dir, self.batch_size = backbone, Path(cache_dir), batch_size
        self.instruction_template = instruction_template
        self.embedded = 0
        self._recent: dict[tuple[str, str | None, Task | None], np.ndarray] = {}

    def embed(
        self,
        inputs: Sequence[str] | ImageColumn,
        prompt_name: str | None,
        *,
        task: Task | None = None,
        prompt: str | None = None,
        label: str = "embedding",
    ) -> np.ndarray:
        """Compute or find embeddings.

        Args:
            inputs: texts or images.
            prompt_name: one of the backbone's prompts, for texts; None for that of the task.
            task: what the inputs are embedded as, see `Backbone.embed`.
            prompt: the text to put before texts, instead of a prompt with a name.
            label: of the progress bar.

        Returns:
            float32, shape (n, dim).
        """
        if not len(inputs):
            return np.zeros((0, self.backbone.dim), np.float32)
        parts = inputs.hashes() if isinstance(inputs, ImageColumn) else inputs
        prompt = self.backbone.prompt(prompt_name, task) if prompt is None else prompt
        key = fingerprint_texts(parts), prompt, self.backbone.effective_task(task)
        if key not in self._recent:
            cache = embed_dataset(
                inputs,
                self.backbone,
                self.cache_dir,
                prompt=prompt or "",
                task=task,
                batch_size=self.batch_size,
                dtype="float32",
                label=label,
            )
            self.embedded += 0 if cache.reused else len(inputs)
            self._recent[key] = cache.to_numpy()
        return self._recent[key]

    def forget(self) -> None:
        """Free the memory; the disk keeps everything."""
        self._recent.clear()
