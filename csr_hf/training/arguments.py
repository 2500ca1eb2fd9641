"""Settings of a training run, with presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from csr_hf.plumbing.settings import settings


def _refuse_booleans(value: Any) -> Any:
    """Refuse what pydantic would take for 0 or 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "should be a number, not a boolean")
    return value


_Number = Annotated[float, BeforeValidator(_refuse_booleans)]
Positive = Annotated[_Number, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[_Number, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]


@settings
class CSRTrainingArguments:
    """How a head is trained. Names follow transformers' `TrainingArguments` where the meaning is the same.

    Raises:
        ValueError: for a value out of range, naming it.
    """

    output_dir: str | None = None
    """Where checkpoints, log and trackers go. A recipe leaves it out: its own `output_dir` serves."""
    max_steps: Count = 2000
    """Optimizer steps."""
    per_device_train_batch_size: Annotated[int, Field(ge=2, strict=True)] = 512
    """Embeddings that a process takes at a time."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of Adam."""
    lr_scheduler_type: Literal["cosine", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_ratio: Annotated[_Number, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    adam_epsilon: Weight = 6.25e-10
    """Adam's epsilon; the default is that of the paper's code."""
    max_grad_norm: Weight = 1.0
    """Gradients are clipped to this norm; 0 switches clipping off."""
    reconstruction: Annotated[dict[str, Weight], Field(min_length=1)] = field(
        default_factory=lambda: {"1": 1.0, "4": 0.125}
    )
    """Weight of the reconstruction error at each multiple of k: one head for all of them."""
    error: Literal["variance", "element"] = "variance"
    """What the squared error is divided by: the data's variance, so that weights fit embeddings of any scale and
    width, or the number of elements, as published."""
    beta: Weight = 1 / 32
    """Weight of the auxiliary error, which revives dead latents."""
    auxiliary_slope: Annotated[_Number, Field(ge=0, le=1)] = 0.0
    """Slope of the auxiliary error's ReLU below 0, where it is flat as published. A dead latent that is negative for
    all rows, as one that only texts use is for images, learns by a slope alone: 0.2 revives those."""
    gamma: Weight = 0.0
    """Weight of the contrast."""
    contrast: Literal["self", "pairs", "labels"] = "self"
    """What a code is contrasted with the rest of the batch against: itself (the paper's released code), the other half
    of its pair, or codes of its class."""
    temperature: Positive = 0.2
    """Temperature of the contrast."""
    distillation: Weight = 0.0
    """Weight of the similarity distillation."""
    distillation_temperature: Positive = 0.05
    """Temperature of the similarity distillation."""
    balance: Weight = 0.0
    """Weight of the balance term, which makes inverted lists equally long."""
    refits: Natural = 0
    """Rounds at the end in which the dictionary is fitted to codes by pursuit, which is what documents are stored as;
    needs a hidden_dim of at most 8,192. 0: none."""
    k_start: Natural = 0
    """k at the first step, annealed to the head's k over the first 70 % of the steps; 0: no annealing."""
    gradient_accumulation_steps: Count = 1
    """A step takes this many batches of each process. They are one batch to every objective, the contrast too; only
    the pre-activations are computed one batch after the other. Where it is 1, what `accelerate launch` says holds."""
    num_processes: Count | None = None
    """Refuse to train with another number of processes."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Arithmetic of the forward pass; fp16 on a GPU alone. Where it is no, what `accelerate launch` says holds."""
    seed: Natural = 0
    """Seed of weights and data order."""
    logging_steps: Count = 50
    """Steps between two lines of the training log."""
    report_to: list[str] = field(default_factory=list)
    """Trackers of Accelerate that get the log too: tensorboard, wandb, ..."""
    save_steps: Natural = 250
    """Steps between two checkpoints; 0: none."""
    save_total_limit: Count = 2
    """Newest checkpoints kept; that of the best evaluation is kept beside them."""
    eval_steps: Natural = 0
    """Steps between two evaluations on `eval_dataset`, in a run on its held-out rows; 0: at the end alone, and only if
    the trainer has an `eval_dataset`."""
    metric_for_best_model: str | None = None
    """Figure of an evaluation that tells which step was best; default neighbor_recall. Where pairs or labels are
    contrasted without distillation, `contrast` tells more."""
    greater_is_better: bool | None = None
    """Whether a larger figure is better; default yes for neighbor_recall and explained_variance, else no."""
    load_best_model_at_end: bool = False
    """End with the weights of the best evaluation; each new best is saved at once."""
    early_stopping_patience: Count | None = None
    """Stop after so many evaluations in a row without a new best."""
    push_to_hub: bool = False
    """Publish the head, without its backbone, when the training ends."""
    hub_model_id: str | None = None
    """Its repository on the Hub, `user/name`; default the name of the output folder, of the user who is logged in."""
    hub_private_repo: bool = False
    """Make the repository a private one, if it does not exist yet."""

    def __post_init__(self) -> None:
        for multiple in self.reconstruction:
            try:
                is_usable = 0 < float(multiple) < math.inf
            except ValueError:
                is_usable = False
            if not is_usable:
                raise ValueError(
                    f"`reconstruction` names {multiple!r}. Give multiples of k above 0 and their weights."
                )
        if not (any(self.reconstruction.values()) or self.gamma or self.distillation or self.balance):
            raise ValueError(
                "the weights of `reconstruction`, `gamma`, `distillation` and `balance` are all 0: "
                "there is nothing to learn. Raise one of them."
            )
        for name in ("load_best_model_at_end", "early_stopping_patience"):
            if getattr(self, name) and not self.eval_steps:
                raise ValueError(f"`{name}` ({getattr(self, name)}) needs evaluations. Set `eval_steps`.")

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> CSRTrainingArguments:
        """Make the arguments of a preset, some of them overridden.

        Args:
            preset: "csr" (the paper's terms and schedule), "csrv2" (its successor's: k-annealing, supervised
                contrast), "csr_hf" (nested k, similarity distillation, even use of latents, errors relative to the
                variance).
            **overrides: fields of this class.

        Raises:
            ValueError: if there is no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"`preset` ({preset!r}) is unknown. Choose one of: {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[preset], **overrides})

    def learning_rate_factor(self, step: int) -> float:
        """Compute the share of the peak learning rate at a step: it rises in the warm-up, then follows its shape."""
        warmup = round(self.warmup_ratio * self.max_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.lr_scheduler_type == "constant":
            return 1.0
        progress = (step - warmup) / max(1, self.max_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    @property
    def active_contrast(self) -> str:
        """What codes are contrasted with; "self", which asks nothing of the data, where the contrast has no weight."""
        return self.contrast if self.gamma else "self"

    def decisive(self) -> dict[str, Any]:
        """Return the arguments that the weights of each step depend on: a run is resumed with the same ones."""
        return {name: value for name, value in self.to_dict().items() if name not in (*INDIFFERENT, *_OF_EVALUATIONS)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for YAML or JSON."""
        return dataclasses.asdict(self)


INDIFFERENT = (
    "output_dir",
    "logging_steps",
    "report_to",
    "save_steps",
    "save_total_limit",
    "num_processes",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
)
"""Arguments that change nothing of the head that a training ends with."""
_OF_EVALUATIONS = (
    "eval_steps",
    "metric_for_best_model",
    "greater_is_better",
    "load_best_model_at_end",
    "early_stopping_patience",
)
"""Arguments that decide where a training ends and which step counts, but not the weights of a step."""

_PUBLISHED: dict[str, Any] = {
    "error": "element",
    "gamma": 0.1,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "max_grad_norm": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "csr": {**_PUBLISHED, "learning_rate": 4e-4, "per_device_train_batch_size": 1024},
    "csrv2": {
        **_PUBLISHED,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 128,
        "contrast": "pairs",
        "beta": 0.1,
        "k_start": 64,
    },
    "csr_hf": {
        "reconstruction": {"0.25": 0.25, "1": 1.0, "4": 0.125},
        "distillation": 0.3,
        "balance": 2.0,
        "per_device_train_batch_size": 256,
    },
}
"""Named sets of arguments; what a preset leaves out has the default.

`csr` is the released code of arXiv 2503.01776 (batches of 4,096 there, on a million embeddings), `csrv2` the head-only
part of arXiv 2602.05735: its contrast needs pairs, or labels with `contrast: labels`. `csr_hf` is what measured best
in this project.
"""
