"""The training loop: cached embeddings in, a trained head out, on Accelerate."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr_hf.atomic import written_whole
from csr_hf.modeling_csr import CSRModel
from csr_hf.training import objectives
from csr_hf.training.arguments import TrainingArguments
from csr_hf.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from csr_hf.training.loss import CSRLoss, LossOutput
from csr_hf.training.rows import EmbeddingRows

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """Loss or gradient became NaN or infinite; the weights of the last good step are kept."""


class CSRTrainer:
    """Trains a CSR head on embeddings of a frozen backbone.

    The order of the data is a function of (seed, step) alone, and nothing else is random, so a resumed run ends with
    the same bits as one that was never interrupted. Dead-latent clocks count training examples over all processes.

    Args:
        model: the head, freshly made or loaded.
        arguments: how to train.
        embeddings: one array (n, input_dim) or several, float16 or float32, memory-mapped if they like.
        output_dir: for checkpoints and `training_log.jsonl`.

    Raises:
        ValueError: if the embeddings are empty, not finite, or not `input_dim` wide, or the head is not float32.
    """

    def __init__(
        self,
        model: CSRModel,
        arguments: TrainingArguments,
        embeddings: np.ndarray | Sequence[np.ndarray],
        output_dir: str | Path,
    ) -> None:
        from accelerate import Accelerator

        arrays = [embeddings] if isinstance(embeddings, np.ndarray) else embeddings
        self.data = EmbeddingRows(arrays)
        if self.data.dim != model.config.input_dim:
            raise ValueError(
                f"embeddings are {self.data.dim} wide, the head takes `input_dim` {model.config.input_dim}. "
                "Set input_dim to the width of the backbone."
            )
        if model.dtype != torch.float32:
            raise ValueError(
                f"the head's weights are {model.dtype}, too coarse to train. "
                "Load it with dtype=torch.float32; `mixed_precision` makes the arithmetic fast."
            )
        self.arguments = arguments
        self.output_dir = Path(output_dir)
        _forget_other_precision(arguments.mixed_precision)
        self.accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
        optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, eps=arguments.adam_epsilon)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        self.model = model.train()
        self.loss, self.optimizer = self.accelerator.prepare(CSRLoss(model, arguments), optimizer)
        self.scheduler = scheduler
        self.step = 0
        self._permuted: tuple[int, np.ndarray] | None = None

    @property
    def batch_size(self) -> int:
        """Examples in one step over all processes."""
        return self.arguments.per_device_train_batch_size * self.accelerator.num_processes

    def train(
        self, resume_from_checkpoint: bool | str | Path = False, *, progress: bool = True, until: int | None = None
    ) -> dict[str, float]:
        """Train to `max_steps`.

        Args:
            resume_from_checkpoint: a checkpoint folder; True for the newest of this output folder, if there is one.
            progress: show a bar with loss, explained variance and dead latents.
            until: stop after this step, as an interruption would; the schedule stays that of the whole run.

        Returns:
            Final figures: loss, explained variance, share of dead latents, mean active latents, postings a query
            touches per document, seconds, examples a second.

        Raises:
            NonFiniteLossError: when the loss or a gradient is not finite. The step is not taken.
        """
        from tqdm.auto import tqdm

        if resume_from_checkpoint:
            self._resume(resume_from_checkpoint)
        self._forget_later_log()
        last = self.arguments.max_steps if until is None else min(until, self.arguments.max_steps)
        first, started, figures = self.step, time.perf_counter(), {}
        bar = tqdm(total=last, initial=first, desc="training", unit="step", disable=not progress or not self._is_main)
        with bar:
            while self.step < last:
                output = self._take_step()
                if self.step % self.arguments.logging_steps == 0 or self.step == last:
                    figures = self._log(output)
                    bar.set_postfix(
                        loss=f"{figures['loss']:.4f}",
                        ev=f"{figures['explained_variance']:.3f}",
                        dead=f"{figures['dead_fraction']:.1%}",
                    )
                if self.arguments.save_steps and self.step % self.arguments.save_steps == 0:
                    self.save_checkpoint()
                bar.update()
        seconds = time.perf_counter() - started
        figures |= self.measure()
        speed = (self.step - first) * self.batch_size / max(seconds, 1e-9)
        self.model.eval()
        return {**figures, "steps": self.step, "seconds": seconds, "examples_per_second": speed}

    @torch.inference_mode()
    def measure(self, sample: int = 16_384) -> dict[str, float]:
        """Figures of the head at its own k over an even sample of the training embeddings.

        `postings_per_document`: sum_j p_j^2 with p_j the share of codes that use latent j, the number of postings a
        query touches for each document of the index; k^2 / hidden_dim is the least possible.
        """
        model, k = self.model, self.model.config.k
        chosen = np.linspace(0, len(self.data) - 1, min(sample, len(self.data))).astype(np.int64)
        usage = torch.zeros(model.config.hidden_dim)
        error = spread = 0.0
        mean = torch.from_numpy(self.data.rows(chosen).mean(0)).to(model.pre_bias)
        for part in np.array_split(chosen, max(1, len(chosen) // 2048)):
            embeddings = torch.from_numpy(self.data.rows(part)).to(model.pre_bias)
            values, indices = model.encode(embeddings)
            usage += torch.bincount(indices[values > 0].flatten().cpu(), minlength=len(usage))
            error += float((model.decode(values, indices) - embeddings).pow(2).sum())
            spread += float((embeddings - mean).pow(2).sum())
        share = usage / len(chosen)
        return {
            "explained_variance": 1 - error / max(spread, 1e-12),
            "dead_fraction": self._dead_fraction(),
            "active_latents": float(share.sum()),
            "postings_per_document": float(share.pow(2).sum()),
            "postings_per_document_if_even": k * k / model.config.hidden_dim,
            "most_used_latent": float(share.max()),
        }

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint of this step (on the main process only).

        Raises:
            NonFiniteLossError: if a weight is not finite; nothing is written.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._non_finite("a weight", {})
        if not self._is_main:
            return None
        states = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        if self.accelerator.scaler is not None:
            states["scaler"] = self.accelerator.scaler.state_dict()
        record = {"step": self.step, **self._identity()}
        return save_checkpoint(self._checkpoints, self.model, states, record, self.arguments.save_total_limit)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resumed run to end with the same bits."""
        config = self.model.config.to_dict()
        sizes = ("input_dim", "hidden_dim", "k", "k_aux", "dead_threshold", "tied_decoder")
        return {
            "arguments": self.arguments.to_dict(),
            "head": {name: config[name] for name in sizes},
            "data": self.data.fingerprint,
            "batch_size": self.batch_size,
        }

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def _checkpoints(self) -> Path:
        return self.output_dir / "checkpoints"

    def _take_step(self) -> LossOutput:
        arguments, model = self.arguments, self.model
        k = objectives.annealed_k(
            self.step, arguments.max_steps, model.config.k, min(arguments.k_start, model.config.hidden_dim // 4)
        )
        batch = torch.from_numpy(self.data.rows(self._batch_indices(self.step))).to(self.accelerator.device)
        with self.accelerator.autocast():
            output: LossOutput = self.loss(batch, k)
        if not math.isfinite(float(output.loss.detach())):
            raise self._non_finite("the loss", output.parts)
        self.accelerator.backward(output.loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm or math.inf)
        # With fp16 the scaler skips a step whose gradients overflow; only full-range types must never see one.
        if arguments.mixed_precision != "fp16" and not math.isfinite(float(norm)):
            raise self._non_finite("a gradient", output.parts)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self._advance_dead_clock(output.fired)
        self.step += 1
        return output

    def _batch_indices(self, step: int) -> np.ndarray:
        """This process's rows of the global batch at `step`: epochs of seeded permutations, end to end."""
        n, size, rank = len(self.data), self.arguments.per_device_train_batch_size, self.accelerator.process_index
        positions = np.arange(size) + step * self.batch_size + rank * size
        epochs = positions // n
        batch = np.empty(size, np.int64)
        for epoch in np.unique(epochs):
            batch[epochs == epoch] = self._permutation(int(epoch))[positions[epochs == epoch] % n]
        return batch

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._permuted is None or self._permuted[0] != epoch:
            self._permuted = (epoch, np.random.default_rng([self.arguments.seed, epoch]).permutation(len(self.data)))
        return self._permuted[1]

    def _advance_dead_clock(self, fired: torch.Tensor) -> None:
        if self.accelerator.num_processes > 1:
            fired = self.accelerator.reduce(fired.int(), "sum") > 0
        clock = self.model.stats_last_nonzero
        clock += self.batch_size
        clock[fired] = 0

    def _learning_rate_factor(self, step: int) -> float:
        warmup = round(self.arguments.warmup_ratio * self.arguments.max_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.arguments.lr_scheduler_type == "constant":
            return 1.0
        progress = (step - warmup) / max(1, self.arguments.max_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _dead_fraction(self) -> float:
        return float((self.model.stats_last_nonzero > self.model.config.dead_threshold).float().mean())

    def _log(self, output: LossOutput) -> dict[str, float]:
        figures = {"loss": float(output.loss.detach())}
        figures |= {name: float(part) for name, part in output.parts.items()}
        figures |= {"dead_fraction": self._dead_fraction(), "learning_rate": float(self.scheduler.get_last_lr()[0])}
        if self._is_main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            with (self.output_dir / "training_log.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, **figures}) + "\n")
        return figures

    def _forget_later_log(self) -> None:
        """Drop lines of steps that are about to be taken (again), and one that an interruption cut short."""
        path = self.output_dir / "training_log.jsonl"
        if not self._is_main or not path.exists():
            return
        whole = [line for line in path.read_text().splitlines(True) if line.endswith("}\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= self.step]
        with written_whole(path) as temporary:
            temporary.write_text("".join(kept))

    def _resume(self, checkpoint: bool | str | Path) -> None:
        if isinstance(checkpoint, bool):
            found = list_checkpoints(self._checkpoints)
            if not found:
                return
            checkpoint = found[-1]
        names = ["optimizer", "scheduler"] + (["scaler"] if self.accelerator.scaler is not None else [])
        weights, states, record = load_checkpoint(Path(checkpoint), names)
        differing = [name for name, value in self._identity().items() if record.get(name) != value]
        if differing:
            raise ValueError(
                f"{checkpoint} belongs to a run with other arguments or data ({', '.join(differing)}). "
                "Resume with the same recipe, or start in a new output folder."
            )
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(states["optimizer"])
        self.scheduler.load_state_dict(states["scheduler"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states["scaler"])
        self.step = int(record["step"])
        logger.info("resumed at step %d from %s", self.step, checkpoint)

    def _non_finite(self, what: str, figures: dict[str, torch.Tensor]) -> NonFiniteLossError:
        parts = {name: f"{float(part):.4g}" for name, part in figures.items()}
        kept = list_checkpoints(self._checkpoints)
        where = f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint had been written yet"
        return NonFiniteLossError(
            f"{what} is not finite at step {self.step}: {parts}. {where}. "
            "Lower learning_rate, use mixed_precision no or bf16, or check the embeddings' scale."
        )


def _forget_other_precision(mixed_precision: str) -> None:
    """Accelerate keeps the precision of a process's first Accelerator and refuses another one later."""
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
