"""The training loop: cached embeddings in, a trained head out, on Accelerate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from csr_hf.head_weights import LARGEST_WEIGHT
from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import check_processes, from_first_process
from csr_hf.plumbing.errors import ExpectedError
from csr_hf.plumbing.launcher import launched_settings
from csr_hf.plumbing.logs import progress_bar
from csr_hf.runs.folder import RunFolder
from csr_hf.training import checkpoints, objectives
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.batches import Batches, TrainDataset
from csr_hf.training.callbacks import CallbackHandler, CSRTrainerCallback
from csr_hf.training.dead_latents import advance_dead_clocks, compute_dead_fractions
from csr_hf.training.evaluation import HeldOutRows, average_over_processes
from csr_hf.training.head_metrics import measure_head
from csr_hf.training.loss import CSRLoss, LossOutput
from csr_hf.training.pushing import prepare_push, push_head
from csr_hf.training.refit import check_refits, refit
from csr_hf.training.scaling import ScaledHead
from csr_hf.training.tracking import Reports, describe_progress, make_accelerator

logger = logging.getLogger(__name__)


class NonFiniteLossError(ExpectedError):
    """Loss or gradient became NaN or infinite; the weights of the last good step are kept."""


class CSRTrainer:
    """Trains a CSR head on embeddings of a frozen backbone, on one process or many.

    The order of the data is a function of (seed, step) alone, and nothing else is random, so a resumed run ends with
    the same bits as one that was never interrupted. Dead-latent clocks count training examples over all processes.

    Embeddings may have any scale: the head is trained on them divided by a power of two near their standard deviation,
    and its biases are multiplied by that power whenever the head is saved or handed back: an exact operation.

    Evaluations draw no random numbers and change nothing, so a run with them ends with the same weights as one
    without. On several processes the first one decides what the others do.

    Args:
        model: the head, fresh or loaded; trained in place.
        args: how to train. `args.output_dir` gets checkpoints, `training_log.jsonl` and trackers.
        train_dataset: embeddings, shape (n, input_dim), as an array, a tensor, a cache, a `datasets.Dataset` or
            `IterableDataset` with columns named like roles, or a list of these, see `csr_hf.data.given.make_sources`;
            or sources that say what belongs together. They are read where they lie.
        eval_dataset: rows to evaluate on, in every form that `train_dataset` has: every `args.eval_steps` steps, and
            at the end.
        callbacks: hooks that are called meanwhile, and may stop the training.

    Raises:
        ValueError: if `args.output_dir` is missing, the embeddings are empty, not finite, or not `input_dim` wide, the
            head is not float32 or too wide for `refits`, the contrast lacks its pairs or labels, a tracker
            is unknown, processes are not `num_processes`, `eval_steps` has no `eval_dataset`, or a callback is none.
        ImportError: if the package of a tracker is missing, with the line to type.

    Example:
        >>> args = CSRTrainingArguments.from_preset("csr_hf", output_dir="runs/mine", max_steps=1000)
        >>> head = CSRModel(CSRConfig(input_dim=384, hidden_dim=1536, k=32))
        >>> CSRTrainer(head, args, embeddings).train()
        >>> head.save_pretrained("runs/mine/model")
    """

    def __init__(
        self,
        model: CSRModel,
        args: CSRTrainingArguments,
        train_dataset: TrainDataset,
        eval_dataset: TrainDataset | None = None,
        callbacks: Iterable[CSRTrainerCallback | type[CSRTrainerCallback]] | None = None,
    ) -> None:
        if args.output_dir is None:
            raise ValueError("`args.output_dir` is missing: CSRTrainingArguments(output_dir=...) says where to write.")
        if model.dtype != torch.float32:
            raise ValueError(
                f"the head's weights are {model.dtype}, too coarse to train. "
                "Load it with dtype=torch.float32; `mixed_precision` makes the arithmetic fast."
            )
        if args.eval_steps and eval_dataset is None:
            raise ValueError(f"`eval_steps` ({args.eval_steps}) needs an `eval_dataset`. Give one, or set it to 0.")
        check_refits(model, args)
        self.folder = RunFolder.of(args.output_dir)
        args = replace(args, **launched_settings(args.mixed_precision, args.gradient_accumulation_steps))
        self.args, self.model = args, model.train()
        self.accelerator = make_accelerator(args, self.folder.trackers)
        check_processes(self.accelerator.num_processes, args.num_processes)
        self.batches = Batches(train_dataset, args, model, self.accelerator)
        self.held_out = None if eval_dataset is None else HeldOutRows(eval_dataset, args, model, self.batches)
        optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=args.adam_epsilon, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, args.learning_rate_factor)
        loss = CSRLoss(model, args, self.batches.variance)
        self.loss, self.optimizer = self.accelerator.prepare(loss, optimizer)
        self._reports = Reports(args, self.folder, self.accelerator, CallbackHandler(callbacks, args, model))
        self.state, self._scaling = self._reports.state, ScaledHead(model, self.batches.scale)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.global_step

    @property
    def batch_size(self) -> int:
        """Examples in one step over all processes."""
        return self.batches.size

    def train(
        self, resume_from_checkpoint: bool | str | Path = False, *, until: int | None = None
    ) -> dict[str, float]:
        """Train to `max_steps`, or until a callback or the patience ends it, with a progress bar on terminals.

        Args:
            resume_from_checkpoint: a checkpoint folder; True for the newest whole one of this output folder, if any.
            until: stop after this step, as an interruption would; the schedule stays that of the whole run.

        Returns:
            Final figures: loss and its parts, those of `measure_head`, `steps`, `seconds`, `examples_per_second`; with
            an `eval_dataset` also those of `evaluate`, and `best_step`.

        Raises:
            NonFiniteLossError: when the loss or a gradient is not finite. The step is not taken.
            ValueError: for a checkpoint that is damaged or of other arguments or data, figures of another head in the
                output folder, a `metric_for_best_model` that is not evaluated, or a head that may not be pushed.
            OSError: if a push failed; the head is in the folder `model` of the output folder.
        """
        repo_id = from_first_process(lambda: prepare_push(self.args, self.model)) if self.args.push_to_hub else ""
        if resume_from_checkpoint:
            self.resume(resume_from_checkpoint)
        if self.step == 0:
            from_first_process(self.folder.check_unmeasured)
        last = self.args.max_steps if until is None else min(until, self.args.max_steps)
        first, started = self.step, time.perf_counter()
        shown: dict[str, float] = {}
        bar = progress_bar(desc="training", unit="step", total=last, initial=first)
        with bar, self._reports.open(), self._scaling.scaled():
            while self.step < last and not self._reports.is_stopped:
                output = self._take_step()
                if new := self._report(output, last):
                    shown |= new
                    bar.set_postfix(describe_progress(shown))
                bar.update()
        seconds = max(time.perf_counter() - started, 1e-9)
        if self._reports.is_stopped:
            logger.info("stopped    at step %d of %d", self.step, self.args.max_steps)
        is_over = self.step >= self.args.max_steps or self._reports.is_stopped
        if is_over and self.args.load_best_model_at_end:
            self._load_best()
        if is_over and self.args.refits:
            refit(self.model, self.batches.rows, self.args)
        self.model.eval()
        figures = self._reports.last_logged() | self._measure()
        examples = (self.step - first) * self.batch_size
        figures |= {"steps": self.step, "seconds": seconds, "examples_per_second": examples / seconds}
        if is_over:
            self._fire("on_train_end", metrics=dict(figures))
            if repo_id and self._is_main:
                push_head(self.model, repo_id, self.folder.model)
        return figures

    def evaluate(self) -> dict[str, float]:
        """Evaluate the head on `eval_dataset`; nothing is written, and no random number is drawn.

        Returns:
            `eval_loss` and the parts of the loss, and the figures of `measure_head`, all with names that begin with
            `eval_`: explained variance and neighbor recall are those of the held-out rows.

        Raises:
            ValueError: without an `eval_dataset`.
        """
        if self.held_out is None:
            raise ValueError("`eval_dataset` is missing: CSRTrainer(model, args, train_dataset, eval_dataset).")
        loss = self.accelerator.unwrap_model(self.loss)
        return self.held_out.evaluate(loss, self._scaling, self.accelerator.autocast())

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint of this step, on the main process alone.

        Returns: its folder; None on the other processes.

        Raises:
            NonFiniteLossError: if a weight is not finite, or too large for a head to load; nothing is written.
        """
        if not all(bool((parameter.abs() <= LARGEST_WEIGHT).all()) for parameter in self.model.parameters()):
            raise self._non_finite_error("a weight", {})
        state, folder = self.state, self.folder.checkpoints
        if state.best_global_step == self.step:
            state.best_model_checkpoint = str(checkpoints.checkpoint_path(folder, self.step))
        if not self._is_main:
            return None
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        record = {"step": self.step, **self._identity(), "best": {"judged_by": self._judges, **state.recorded()}}
        best = state.best_global_step if state.best_model_checkpoint else None
        with self._scaling.original():
            return checkpoints.save_checkpoint(folder, self.model, states, record, self.args.save_total_limit, best)

    def resume(self, checkpoint: bool | str | Path) -> None:
        """Load a checkpoint: weights, optimizer, schedule, step, and which step was best.

        Args:
            checkpoint: its folder; True for the newest of the output folder, if there is one.

        Raises:
            ValueError: if it belongs to a run with other arguments or data.
        """
        stateful = self._stateful()
        folder = self.folder.checkpoints
        loaded = from_first_process(lambda: checkpoints.find_checkpoint(folder, checkpoint, list(stateful)))
        if loaded is None:
            return
        record = loaded.record
        differing = [name for name, value in self._identity().items() if record.get(name) != value]
        if differing:
            raise ValueError(
                f"{loaded.path} belongs to a run with other arguments or data ({', '.join(differing)}). "
                "Resume with the same recipe, or start in a new output folder."
            )
        self.model.load_state_dict(loaded.weights)
        for name, part in stateful.items():
            part.load_state_dict(loaded.states[name])
        self.state.global_step = int(record["step"])
        recorded = record.get("best", {})
        if recorded.get("judged_by") == self._judges:
            self.state.restore(recorded, loaded.best)
        logger.info("resumed at step %d from %s", self.step, loaded.path)

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
    def _judges(self) -> list[Any] | None:
        return self.held_out.identity if self.held_out else None

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
        advance_dead_clocks(model, output.fired, batch)
        self.state.global_step += 1
        return output

    def _report(self, output: LossOutput, last: int) -> dict[str, float]:
        """Log, evaluate and save what is due at this step, and return new figures."""
        args, step = self.args, self.step
        figures: dict[str, float] = {}
        if step % args.logging_steps == 0 or step == last:
            figures |= self._log(output)
        if self.held_out is not None and (
            self._reports.control.should_evaluate or _is_due(step, args.eval_steps) or step == args.max_steps
        ):
            figures |= self._evaluate(self.held_out)
        is_best = args.load_best_model_at_end and self.state.best_global_step == step
        if self._reports.control.should_save or _is_due(step, args.save_steps) or is_best:
            self._reports.control.should_save = False
            self.save_checkpoint()
            self._fire("on_save", checkpoint=checkpoints.checkpoint_path(self.folder.checkpoints, step))
        return figures

    def _log(self, output: LossOutput) -> dict[str, float]:
        figures = average_over_processes({"loss": output.loss, **output.parts})
        figures |= compute_dead_fractions(self.model)
        figures["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        self._reports.write(figures)
        self._fire("on_log", logs=dict(figures))
        return figures

    def _evaluate(self, held_out: HeldOutRows) -> dict[str, float]:
        self._reports.control.should_evaluate = False
        figures = self.evaluate()
        self.state.note(held_out.judge(figures), greater_is_better=held_out.greater_is_better)
        self._reports.write(figures)
        self._fire("on_evaluate", metrics=dict(figures))
        return figures

    def _fire(self, hook: str, **figures: Any) -> None:
        with self._scaling.original():
            self._reports.fire(hook, **figures)

    def _load_best(self) -> None:
        best = self.state.best_global_step
        if best in (None, self.step):
            return
        weights = from_first_process(lambda: checkpoints.find_weights(self.state.best_model_checkpoint))
        if weights is None:
            logger.warning("the checkpoint of the best step, %d, is gone: the last step counts", best)
            return
        self.model.load_state_dict(weights)
        logger.info("best step  %d of %d", best, self.step)

    def _measure(self) -> dict[str, float]:
        """Measure the head as it is at the end."""
        figures = from_first_process(lambda: measure_head(self.model, self.batches.rows))
        if self.held_out is not None:
            figures |= self.evaluate()
        if self.state.best_global_step is not None:
            figures["best_step"] = self.state.best_global_step
        return figures

    def _non_finite_error(self, what: str, figures: dict[str, torch.Tensor]) -> NonFiniteLossError:
        parts = {name: f"{float(part):.4g}" for name, part in figures.items()}
        return NonFiniteLossError(
            f"{what} is not finite at step {self.step}: {parts}. {checkpoints.name_newest(self.folder.checkpoints)}. "
            "Lower learning_rate, use mixed_precision no or bf16, or check the embeddings' scale."
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
