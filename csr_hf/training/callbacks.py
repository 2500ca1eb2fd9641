"""Hooks into a training: what they are called with, and how they steer it. Names are those of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.distributed import from_first_process
from csr_hf.training.arguments import CSRTrainingArguments

_RECORDED = ("best_metric", "best_global_step", "early_stopping_patience_counter")
HOOKS = ("on_log", "on_evaluate", "on_save", "on_train_end")


@dataclass
class CSRTrainerState:
    """Where a training stands."""

    global_step: int = 0
    """Steps taken."""
    max_steps: int = 0
    """Steps of the whole training."""
    best_metric: float | None = None
    """The best value so far of `metric_for_best_model`."""
    best_global_step: int | None = None
    """The step that was evaluated best."""
    best_model_checkpoint: str | None = None
    """Folder of the checkpoint of that step, if it was saved."""
    early_stopping_patience_counter: int = 0
    """Evaluations since the best one."""
    log_history: list[dict[str, float]] = field(default_factory=list)
    """The lines of the training log, `step` and figures; those of an evaluation have names with `eval_`."""
    is_world_process_zero: bool = True
    """Whether this process is the first of all."""

    def note(self, value: float, *, greater_is_better: bool) -> None:
        """Take the value of an evaluation of this step into account.

        Args:
            value: of `metric_for_best_model`.
            greater_is_better: whether a larger value is a better one.
        """
        best = self.best_metric
        # No NaN is better than anything.
        if value == value and (best is None or (value > best if greater_is_better else value < best)):
            self.best_metric, self.best_global_step = value, self.global_step
            self.best_model_checkpoint, self.early_stopping_patience_counter = None, 0
        else:
            self.early_stopping_patience_counter += 1

    def recorded(self) -> dict[str, Any]:
        """Return what a checkpoint remembers of the evaluations before it, as JSON holds it."""
        return {name: getattr(self, name) for name in _RECORDED}

    def restore(self, recorded: dict[str, Any], best: Path | None) -> None:
        """Take over what a checkpoint remembers.

        Args:
            recorded: see `recorded`.
            best: checkpoint of the best step, if it is there.
        """
        for name in _RECORDED:
            setattr(self, name, recorded[name])
        self.best_model_checkpoint = None if best is None else str(best)


@dataclass(slots=True)
class CSRTrainerControl:
    """What a callback wants to happen."""

    should_training_stop: bool = False
    """End the training after this step."""
    should_evaluate: bool = False
    """Evaluate at this step, or at the next if this one was evaluated already."""
    should_save: bool = False
    """Write a checkpoint of this step, or of the next if this one was saved already."""


class CSRTrainerCallback:
    """Hooks that a training calls, to be overridden; they do nothing.

    Each gets the arguments, the state and the control of the training, and by keyword `model`, the head as it would be
    saved at this step. It sets fields of `control`, or returns another one. What a hook raises ends the training. Of
    several processes each calls its own hooks; what those of the first one want is done.

    Example:
        >>> class StopWhenGood(CSRTrainerCallback):
        ...     def on_evaluate(self, args, state, control, *, metrics, **kwargs):
        ...         control.should_training_stop = metrics["eval_explained_variance"] > 0.9
    """

    def on_log(
        self, args: CSRTrainingArguments, state: CSRTrainerState, control: CSRTrainerControl, **kwargs: Any
    ) -> CSRTrainerControl | None:
        """Handle a line of the training log; `logs` has its figures."""

    def on_evaluate(
        self, args: CSRTrainingArguments, state: CSRTrainerState, control: CSRTrainerControl, **kwargs: Any
    ) -> CSRTrainerControl | None:
        """Handle an evaluation; `metrics` has its figures, with names such as `eval_loss`."""

    def on_save(
        self, args: CSRTrainingArguments, state: CSRTrainerState, control: CSRTrainerControl, **kwargs: Any
    ) -> CSRTrainerControl | None:
        """Handle a checkpoint; `checkpoint` is its folder."""

    def on_train_end(
        self, args: CSRTrainingArguments, state: CSRTrainerState, control: CSRTrainerControl, **kwargs: Any
    ) -> CSRTrainerControl | None:
        """Handle the end of the training, before anything is pushed; `metrics` has its final figures."""


class CallbackHandler:
    """Calls the hooks of all callbacks in their order.

    Args:
        callbacks: instances of `CSRTrainerCallback`, or classes to make one of each; None for none.
        args: of the training.
        model: the head.

    Raises:
        ValueError: for anything else, or for a callback with a hook that is never called.
    """

    def __init__(
        self,
        callbacks: Iterable[CSRTrainerCallback | type[CSRTrainerCallback]] | None,
        args: CSRTrainingArguments,
        model: CSRModel,
    ) -> None:
        self._args, self._model = args, model
        if callbacks is not None and not isinstance(callbacks, Iterable):
            raise ValueError(f"`callbacks` ({type(callbacks).__name__}) must be a list. Write [callback].")
        self._callbacks = [each() if isinstance(each, type) else each for each in callbacks or ()]
        for callback in self._callbacks:
            _check(callback)

    def fire(self, hook: str, state: CSRTrainerState, control: CSRTrainerControl, **figures: Any) -> CSRTrainerControl:
        """Call a hook of every callback, on every process.

        Args:
            hook: its name.
            state: of the training.
            control: what was wanted so far.
            **figures: what this hook gets by keyword beside the model.

        Returns:
            What the callbacks of the first process want.

        Raises:
            Exception: what a hook raised; what it raised on the first process is raised on all.
            ValueError: if a hook returned something else than a control.
        """
        if not state.is_world_process_zero:
            self._call(hook, state, control, figures)
        return from_first_process(lambda: self._call(hook, state, control, figures))

    def _call(
        self, hook: str, state: CSRTrainerState, control: CSRTrainerControl, figures: dict[str, Any]
    ) -> CSRTrainerControl:
        for callback in self._callbacks:
            wanted = getattr(callback, hook)(self._args, state, control, model=self._model, **figures)
            if wanted is None:
                continue
            if not isinstance(wanted, CSRTrainerControl):
                raise ValueError(
                    f"`{hook}` of {type(callback).__name__} returned {wanted!r}. Return the control, or nothing."
                )
            control = wanted
        return control


def _check(callback: Any) -> None:
    name = type(callback).__name__
    if not isinstance(callback, CSRTrainerCallback):
        raise ValueError(f"`callbacks` holds {name}, which is no CSRTrainerCallback. Derive it from that class.")
    unknown = [hook for hook in dir(callback) if hook.startswith("on_") and hook not in HOOKS]
    if unknown:
        raise ValueError(f"`{unknown[0]}` of {name} would never be called. Hooks are: {', '.join(HOOKS)}.")
