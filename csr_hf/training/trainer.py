"""The training loop: cached embeddings in, a trained head out, on Accelerate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import check_processes, sum_over_processes
from csr_hf.plumbing.logs import progress_bar
from csr_hf.runs.folder import RunFolder
from csr_hf.training import objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.batches import Batch, Batches, TrainDataset
from csr_hf.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from csr_hf.training.head_metrics import compute_dead_fractions, measure_head
from csr_hf.training.loss import CSRLoss, LossOutput
from csr_hf.training.tracking import append_to_log, make_accelerator, open_trackers, truncate_log

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """Loss or gradient became NaN or infinite; the weights of the last good step are kept."""


class CSRTrainer:
    """Trains a CSR head on embeddings of a frozen backbone, on one process or many.

    The order of the data is a function of (seed, step) alone, and nothing else is random, so a resumed run ends with
    the same bits as one that was never interrupted. Dead-latent clocks count training examples over all processes.

    Embeddings may have any scale: the head is trained on them divided by a power of two near their standard deviation,
    and its biases are multiplied by that power whenever the head is saved or handed back: an exact operation.

    Args:
        model: the head, fresh or loaded; trained in place.
        args: how to train. `args.output_dir` gets checkpoints, `training_log.jsonl` and trackers.
        train_dataset: embeddings, shape (n, input_dim), float16 or float32, memory-mapped or not, one array or
            several; or sources that say what belongs together.

    Raises:
        ValueError: if `args.output_dir` is missing, the embeddings are empty, not finite, or not `input_dim` wide, the
            head is not float32, the contrast needs pairs or labels that the data does not have, a tracker is unknown,
            or the number of processes is not `args.num_processes`.
        ImportError: if the package of a tracker is missing, with the line to type.

    Example:
        >>> args = CSRTrainingArguments.from_preset("csr_hf", output_dir="runs/mine", max_steps=1000)
        >>> head = CSRModel(CSRConfig(input_dim=384, hidden_dim=1536, k=32))
        >>> CSRTrainer(head, args, embeddings).train()
        >>> head.save_pretrained("runs/mine/model")
    """

    def __init__(self, model: CSRModel, args: CSRTrainingArguments, train_dataset: TrainDataset) -> None:
        if args.output_dir is None:
            raise ValueError("`args.output_dir` is missing: CSRTrainingArguments(output_dir=...) says where to write.")
        if model.dtype != torch.float32:
            raise ValueError(
                f"the head's weights are {model.dtype}, too coarse to train. "
                "Load it with dtype=torch.float32; `mixed_precision` makes the arithmetic fast."
            )
        self.args, self.model, self.folder = args, model.train(), RunFolder.of(args.output_dir)
        self.accelerator = make_accelerator(args, self.folder.trackers)
        check_processes(self.accelerator.num_processes, args.num_processes)
        self.batches = Batches(train_dataset, args, model, self.accelerator)
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=args.adam_epsilon, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        loss = CSRLoss(model, args, self.batches.variance)
        self.loss, self.optimizer = self.accelerator.prepare(loss, optimizer)
        self.step = 0
        self._is_scaled = False

    @property
    def batch_size(self) -> int:
        """Examples in one step over all processes."""
        return self.batches.size

    def train(
        self, resume_from_checkpoint: bool | str | Path = False, *, until: int | None = None
    ) -> dict[str, float]:
        """Train to `max_steps`, with a progress bar on terminals.

        Args:
            resume_from_checkpoint: a checkpoint folder; True for the newest of this output folder, if there is one.
            until: stop after this step, as an interruption would; the schedule stays that of the whole run.

        Returns:
            Final figures: loss and its parts, those of `measure_head`, `steps`, `seconds`, `examples_per_second`.

        Raises:
            NonFiniteLossError: when the loss or a gradient is not finite. The step is not taken.
            ValueError: if the checkpoint is none, or of other arguments or data.
        """
        if resume_from_checkpoint:
            self.resume(resume_from_checkpoint)
        if self._is_main:
            truncate_log(self.folder.log, self.step)
        last = self.args.max_steps if until is None else min(until, self.args.max_steps)
        first, started, figures = self.step, time.perf_counter(), {}
        bar = progress_bar(desc="training", unit="step", total=last, initial=first)
        with bar, open_trackers(self.accelerator, self.args) as track, self._with_scaled_biases():
            while self.step < last:
                output = self._take_step()
                if self.step % self.args.logging_steps == 0 or self.step == last:
                    figures = self._log(output)
                    track(figures, self.step)
                    bar.set_postfix(
                        loss=f"{figures['loss']:.4f}",
                        ev=f"{figures['explained_variance']:.3f}",
                        dead=f"{figures['dead_fraction']:.1%}",
                    )
                if self.args.save_steps and self.step % self.args.save_steps == 0:
                    self.save_checkpoint()
                bar.update()
        seconds = time.perf_counter() - started
        figures |= measure_head(self.model, self.batches.rows)
        speed = (self.step - first) * self.batch_size / max(seconds, 1e-9)
        self.model.eval()
        return {**figures, "steps": self.step, "seconds": seconds, "examples_per_second": speed}

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint of this step, on the main process alone.

        Returns:
            Its folder; None on the other processes.

        Raises:
            NonFiniteLossError: if a weight is not finite; nothing is written.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._non_finite_error("a weight", {})
        if not self._is_main:
            return None
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        record = {"step": self.step, **self._identity()}
        with self._with_original_biases():
            return save_checkpoint(self.folder.checkpoints, self.model, states, record, self.args.save_total_limit)

    def resume(self, checkpoint: bool | str | Path) -> None:
        """Load a checkpoint: weights, optimizer, schedule and step.

        Args:
            checkpoint: its folder; True for the newest of the output folder, if there is one.

        Raises:
            ValueError: if it belongs to a run with other arguments or data.
        """
        if isinstance(checkpoint, bool):
            found = list_checkpoints(self.folder.checkpoints)
            if not found:
                return
            checkpoint = found[-1]
        stateful = self._stateful()
        weights, states, record = load_checkpoint(Path(checkpoint), list(stateful))
        differing = [name for name, value in self._identity().items() if record.get(name) != value]
        if differing:
            raise ValueError(
                f"{checkpoint} belongs to a run with other arguments or data ({', '.join(differing)}). "
                "Resume with the same recipe, or start in a new output folder."
            )
        self.model.load_state_dict(weights)
        for name, part in stateful.items():
            part.load_state_dict(states[name])
        self.step = int(record["step"])
        logger.info("resumed at step %d from %s", self.step, checkpoint)

    @contextmanager
    def _with_scaled_biases(self) -> Iterator[None]:
        """Make the head one for embeddings divided by the scale, within the block."""
        self._multiply_biases(1 / self.batches.scale)
        self._is_scaled = True
        try:
            yield
        finally:
            self._is_scaled = False
            self._multiply_biases(self.batches.scale)

    @contextmanager
    def _with_original_biases(self) -> Iterator[None]:
        """Make the head one for embeddings as they are, within the block."""
        factor = self.batches.scale if self._is_scaled else 1.0
        self._multiply_biases(factor)
        try:
            yield
        finally:
            self._multiply_biases(1 / factor)

    @torch.no_grad()
    def _multiply_biases(self, factor: float) -> None:
        self.model.pre_bias.mul_(factor)
        self.model.latent_bias.mul_(factor)

    def _stateful(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the head, by the name of its file."""
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.accelerator.scaler}
        return {name: part for name, part in parts.items() if part is not None}

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a resumed run to end with the same bits."""
        config = self.model.config.to_dict()
        sizes = ("input_dim", "hidden_dim", "k", "k_aux", "dead_threshold", "tied_decoder")
        return {
            "arguments": self.args.decisive(),
            "head": {name: config[name] for name in sizes},
            "data": self.batches.rows.fingerprint,
            "batch_size": self.batch_size,
        }

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process

    def _take_step(self) -> LossOutput:
        args, model = self.args, self.model
        k = objectives.annealed_k(
            self.step, args.max_steps, model.config.k, min(args.k_start, model.config.hidden_dim // 4)
        )
        batch = self.batches.at(self.step)
        with self.accelerator.autocast():
            output: LossOutput = self.loss(batch, k)
        if not math.isfinite(float(output.loss.detach())):
            raise self._non_finite_error("the loss", output.parts)
        self.accelerator.backward(output.loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
        # With fp16 the scaler skips a step whose gradients overflow; other types never overflow in a healthy run.
        if args.mixed_precision != "fp16" and not math.isfinite(float(norm)):
            raise self._non_finite_error("a gradient", output.parts)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self._advance_dead_clocks(output.fired, batch)
        self.step += 1
        return output

    def _advance_dead_clocks(self, fired: torch.Tensor, batch: Batch) -> None:
        model, fired = self.model, sum_over_processes(fired.int()) > 0
        model.stats_last_nonzero += len(batch.embeddings) * self.accelerator.num_processes
        model.stats_last_nonzero[fired.any(0)] = 0
        if batch.modalities is not None:
            counts = sum_over_processes(torch.bincount(batch.modalities, minlength=len(fired)))
            model.modality_last_nonzero += counts[:, None]
            model.modality_last_nonzero[fired] = 0

    def _learning_rate_factor(self, step: int) -> float:
        warmup = round(self.args.warmup_ratio * self.args.max_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.args.lr_scheduler_type == "constant":
            return 1.0
        progress = (step - warmup) / max(1, self.args.max_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _log(self, output: LossOutput) -> dict[str, float]:
        parts = {"loss": output.loss.detach(), **output.parts}
        # Means over the processes: the curve of one process with all their batches.
        totals = sum_over_processes(torch.stack([part.double() for part in parts.values()]))
        means = totals / self.accelerator.num_processes
        figures = dict(zip(parts, means.tolist(), strict=True))
        figures |= compute_dead_fractions(self.model)
        figures["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        if self._is_main:
            append_to_log(self.folder.log, self.step, figures)
        return figures

    def _non_finite_error(self, what: str, figures: dict[str, torch.Tensor]) -> NonFiniteLossError:
        parts = {name: f"{float(part):.4g}" for name, part in figures.items()}
        kept = list_checkpoints(self.folder.checkpoints)
        where = f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint had been written yet"
        return NonFiniteLossError(
            f"{what} is not finite at step {self.step}: {parts}. {where}. "
            "Lower learning_rate, use mixed_precision no or bf16, or check the embeddings' scale."
        )
