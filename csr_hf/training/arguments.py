"""Every knob of a training run, with presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class CSRTrainingArguments:
    """How a head is trained. Names follow transformers' `TrainingArguments` where the meaning is the same.

    Raises:
        ValueError: for a value out of range, naming it.
    """

    max_steps: int = 2000
    """Optimiser steps."""
    per_device_train_batch_size: int = 512
    """Embeddings a process takes at a time."""
    learning_rate: float = 2e-3
    """Peak learning rate of Adam."""
    lr_scheduler_type: Literal["cosine", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    adam_epsilon: float = 6.25e-10
    """Adam's epsilon (the official code's)."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 switches clipping off."""
    reconstruction: dict[str, float] = field(default_factory=lambda: {"1": 1.0, "4": 0.125})
    """Weight of the reconstruction error at each multiple of k: one head for all of them."""
    error: Literal["variance", "element"] = "variance"
    """What the squared error is divided by: the data's variance, so that weights fit embeddings of any scale and
    width, or the number of elements, as published."""
    cosine: float = 0.0
    """Weight of the cosine reconstruction."""
    beta: float = 1 / 32
    """Weight of the auxiliary error, which revives dead latents."""
    gamma: float = 0.0
    """Weight of the contrast."""
    contrast: Literal["self", "pairs", "labels", "neighbors"] = "self"
    """What a code is contrasted with the rest of the batch against: itself (the paper's released code), the other half
    of its pair, codes of its class, or its nearest neighbor in the backbone's space."""
    contrast_on: Literal["codes", "reconstructions"] = "codes"
    """What the contrast of pairs compares: codes, or what they decode to (the paper, for images with texts)."""
    temperature: float = 0.2
    """Temperature of the contrast."""
    distillation: float = 0.0
    """Weight of the similarity distillation."""
    distillation_temperature: float = 0.05
    """Temperature of the similarity distillation."""
    distillation_memory: int = 0
    """Embeddings of earlier steps that are compared with too; their codes are made anew, without a gradient."""
    balance: float = 0.0
    """Weight of the balance term."""
    k_start: int = 0
    """k at the first step, annealed to the head's k over the first 70 % of the steps; 0: no annealing."""
    gradient_accumulation_steps: int = 1
    """A step takes this many batches of each process. They are one batch to every objective, the contrast too; only
    the pre-activations are made one batch after the other."""
    num_processes: int | None = None
    """Refuse to train with another number of processes; None: what `accelerate launch --num_processes` says."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Arithmetic of the forward pass."""
    seed: int = 0
    """Seed of weights and data order."""
    logging_steps: int = 50
    """Steps between two lines of the training log."""
    report_to: list[str] = field(default_factory=list)
    """Trackers of Accelerate that get the log too: tensorboard, wandb, ..."""
    save_steps: int = 500
    """Steps between two checkpoints; 0: none."""
    save_total_limit: int = 2
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("max_steps", "logging_steps", "save_total_limit", "gradient_accumulation_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        batch_size = self.per_device_train_batch_size
        _require(batch_size >= 2, "per_device_train_batch_size", batch_size, "at least 2")
        for name in ("learning_rate", "temperature", "distillation_temperature"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in _NOT_NEGATIVE:
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(
            self.contrast_on == "codes" or self.contrast == "pairs",
            "contrast_on",
            self.contrast_on,
            "codes unless `contrast` is pairs",
        )
        processes = self.num_processes
        _require(processes is None or processes >= 1, "num_processes", processes, "at least 1")
        _require(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "in [0, 1)")
        for name, choices in _CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), f"one of: {', '.join(choices)}")
        _require(
            bool(self.reconstruction)
            and all(_is_number(multiple) and float(multiple) > 0 for multiple in self.reconstruction)
            and all(_is_number(weight) and float(weight) >= 0 for weight in self.reconstruction.values()),
            "reconstruction",
            self.reconstruction,
            "multiples of k above 0, each with a weight of 0 or more",
        )
        self.reconstruction = {str(multiple): float(weight) for multiple, weight in self.reconstruction.items()}

    def _check_types(self) -> None:
        for known in dataclasses.fields(self):
            value = getattr(self, known.name)
            if known.type == "int":
                _require(isinstance(value, int) and not isinstance(value, bool), known.name, value, "an integer")
            elif known.type == "float":
                # YAML reads 2e-3 as text and 2.0e-3 as a number.
                _require(not isinstance(value, bool) and _is_number(value), known.name, value, "a finite number")
                setattr(self, known.name, float(value))

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> CSRTrainingArguments:
        """The arguments of a preset, some of them overridden.

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

    def decisive(self) -> dict[str, Any]:
        """The arguments that the trained weights depend on."""
        return {name: value for name, value in self.to_dict().items() if name not in _INDIFFERENT}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for YAML or JSON."""
        return dataclasses.asdict(self)


_NOT_NEGATIVE = (
    "cosine", "beta", "gamma", "distillation", "distillation_memory", "balance", "max_grad_norm", "save_steps",
    "k_start", "seed",
)  # fmt: skip
_CHOICES = {
    "lr_scheduler_type": ("cosine", "constant"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "error": ("variance", "element"),
    "contrast": ("self", "pairs", "labels", "neighbors"),
    "contrast_on": ("codes", "reconstructions"),
}
_INDIFFERENT = ("logging_steps", "report_to", "save_steps", "save_total_limit", "num_processes")

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
part of arXiv 2602.05735: its contrast needs pairs, or labels with `contrast: labels`. `csr_hf` is ours.
"""


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"`{name}` ({value!r}) must be {rule}.")
