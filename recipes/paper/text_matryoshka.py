"""Fine-tune MiniLM by Matryoshka losses on the pairs of the general recipe, and save it after given minutes.

    python recipes/paper/text_matryoshka.py --output runs/matryoshka --minutes 15,30,60,120

The rival of the paper: sentence-transformers' MatryoshkaLoss over MultipleNegativesRankingLoss, both with their
defaults, for an epoch at most. Minutes are those of one core: the processor time of the training, loading left out.
`minutes_N/` holds the model after N of them, `epoch/` that of a whole epoch, if that ends before the last of them. The
same command goes on where the last of these was saved.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from csr_hf.data.sources import load_sources
from csr_hf.embedding.loading import load_backbone
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import provenance, record_command
from csr_hf.runs.recipe import RunRecipe

RECIPE = Path(__file__).parents[1] / "all-MiniLM-L6-v2" / "general_k32.yaml"
DIMS = [384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8]
TOKENS = 128
"""Of a text in the training; the saved model takes as many as before."""


def read_pairs(recipe: RunRecipe) -> Dataset:
    """Read the training pairs of the recipe: no row that it holds out."""
    parts = []
    pairs = [source for source in recipe.data.sources if "positive" in source.columns]
    for source in load_sources(replace(recipe.data, sources=pairs)):
        rows = source.rows.select(np.flatnonzero(~source.held_out))
        parts.append(rows.select_columns(["anchor", "positive"]))
    return concatenate_datasets(parts)


class SaveByMinutes(TrainerCallback):
    """Save the model whenever the training has taken one of several numbers of minutes of one core.

    Args:
        model: what is trained. It is saved with the length of texts that it has now, however they are cut later.
        minutes: when to save, rising.
        output: folder of the models and of `minutes.json`, which says how long an interrupted training took so far.
    """

    def __init__(self, model: SentenceTransformer, minutes: list[float], output: Path) -> None:
        self.model, self.minutes, self.output = model, minutes, output
        self._tokens = model.max_seq_length
        self._record = output / "minutes.json"
        self.points: list[dict[str, Any]] = []
        self._began = self._before = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock where the last checkpoint stopped it."""
        if state.global_step and self._record.exists():
            points = json.loads(self._record.read_text(encoding="utf-8"))["points"]
            self.points = [point for point in points if point["step"] <= state.global_step]
            self._before = self.points[-1]["minutes"]
        self._began = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save at each of the minutes, and stop at the last."""
        minutes = self._before + (time.process_time() - self._began) / 60
        reached = self.points[-1]["minutes"] if self.points else 0.0
        due = [mark for mark in self.minutes if reached < mark <= minutes]
        if due:
            self._save(f"minutes_{due[-1]:g}", minutes, state.global_step)
            control.should_save = True
            if due[-1] == self.minutes[-1]:
                control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the model of a whole epoch."""
        if not self.points or self.points[-1]["step"] < state.global_step:
            self._save("epoch", self._before + (time.process_time() - self._began) / 60, state.global_step)

    def _save(self, name: str, minutes: float, step: int) -> None:
        cut, self.model.max_seq_length = self.model.max_seq_length, self._tokens
        self.model.save_pretrained(str(self.output / name))
        self.model.max_seq_length = cut
        self.points.append({"folder": name, "minutes": minutes, "step": step})
        with write_whole(self._record) as path:
            path.write_text(json.dumps({"points": self.points, **provenance()}, indent=1), encoding="utf-8")


def fine_tune(
    model: SentenceTransformer, pairs: Dataset, output: Path, minutes: list[float], **settings: Any
) -> list[dict[str, Any]]:
    """Fine-tune a model for an epoch, or until the last of the minutes.

    Args:
        model: to fine-tune, in place.
        pairs: its columns are questions and what answers them.
        output: folder to write, or to go on in.
        minutes: when to save, rising.
        settings: of sentence-transformers' training arguments, in place of those here.

    Returns:
        The folders that were saved, each with its minutes and step.
    """
    dims = [dim for dim in DIMS if dim <= (model.get_embedding_dimension() or 0)]
    saving = SaveByMinutes(model, minutes, output)
    model.max_seq_length = min(TOKENS, model.max_seq_length or TOKENS)
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 64,
        "num_train_epochs": 1,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 30,
        "batch_sampler": BatchSamplers.NO_DUPLICATES,
        "save_strategy": "no",
        "save_total_limit": 1,
        "logging_steps": 5,
        "report_to": "none",
        "use_cpu": True,
    }
    checkpoints = output / "checkpoints"
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(checkpoints), **{**defaults, **settings}),
        train_dataset=pairs,
        loss=MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims),
        callbacks=[saving],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    return saving.points


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", default="15,30,60,120", help="of one core (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="(default: %(default)s)")
    options = parser.parse_args()
    record_command(shlex.join(["python", "recipes/paper/text_matryoshka.py", *sys.argv[1:]]))
    recipe = RunRecipe.load(RECIPE)
    model: SentenceTransformer = load_backbone(recipe.backbone.name_or_path, device="cpu").model
    minutes = [float(mark) for mark in options.minutes.split(",")]
    fine_tune(model, read_pairs(recipe), options.output, minutes, learning_rate=options.learning_rate)


if __name__ == "__main__":
    main()
