"""Settings of what is done with a recipe or a finished run; flags of the command line are made of them."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from csr_hf.evaluation.names import Baseline
from csr_hf.plumbing.settings import Flag, read_overrides, settings

_OWN_FLAGS = {"model.hidden_dim": "hidden-dim", "model.k": "k", "training.max_steps": "max-steps"}
_SHARED = ("data", "backbone", "output_dir", "cache_dir", "index", "search")


@settings
class SweepArguments:
    """What a sweep varies; every combination is trained and measured.

    Raises:
        ValueError: for a variant that sets what has a flag of its own, or what all combinations share.
    """

    hidden_dim: list[int | str] = field(default_factory=list)
    """Numbers, or multiples of the embeddings' width such as "2x"; default the recipe's."""
    k: list[int] = field(default_factory=list)
    """Active latents to train at; default the recipe's."""
    max_steps: list[int] = field(default_factory=list)
    """Lengths of the training; default the recipe's."""
    preset: list[str] = field(default_factory=list)
    """Presets of training (csr, csrv2, csr_hf) instead of the recipe's. Each takes as many steps of its own batch size
    as give the recipe's number of examples."""
    variant: Annotated[list[dict[str, Any]], Flag(parse=read_overrides)] = field(default_factory=list)
    """Keys of the recipe and their values, one mapping for each variant; as a flag key=value,key=value, which may be
    repeated."""

    def __post_init__(self) -> None:
        for keys in self.variant:
            for key, value in keys.items():
                _check_variant(key, value)


def _check_variant(key: str, value: Any) -> None:
    """Refuse keys that a variant would set without effect, or that name its results wrong."""
    if key == "training.preset":
        # A variant changes keys of a recipe whose preset has been resolved.
        raise ValueError(
            f"`variant` sets `training.preset` ({value!r}), which would change nothing. "
            f"Set `preset` instead: --preset {value}."
        )
    if key in _OWN_FLAGS:
        raise ValueError(f"`variant` sets `{key}`, which has a flag of its own: --{_OWN_FLAGS[key]} {value}.")
    if key.partition(".")[0] in _SHARED:
        raise ValueError(
            f"`variant` sets `{key}`, but all combinations of a sweep share data, backbone and folders. Set it in the "
            "recipe, or start a sweep for each value."
        )


@settings
class MTEBArguments:
    """How a head is measured on MTEB, and beside what.

    Raises:
        ValueError: for a template of instructions that has no place for them.
    """

    bytes: list[Annotated[int, Field(ge=8)]] = field(default_factory=list)
    """Bytes of a document that every method has to keep within, such as 16,24,48,64,96,128: each gets its largest
    setting within each (default: those that the values of --k take)."""
    ks: Annotated[list[Annotated[int, Field(ge=1)]] | None, Flag("k")] = None
    """Active latents of a document, for CSR as sparse codes (default: 4,8,16,32,64; with --bytes none)."""
    baselines: list[Baseline] | None = None
    """What to compare with: truncate, adapter, pca, int8, binary, rotated, pq, opq, rabitq. All but truncate and
    binary are fitted on what the head was trained on (default: all, but those only while the embeddings of the
    training are in the cache)."""
    output_dir: str | None = None
    """Where results go (default: evaluation/ in the run, or evaluation/NAME)."""
    submit_dir: str | None = None
    """Also lay out results of a published head as the leaderboard wants them, in this folder."""
    overwrite: bool = False
    """Start over: remove the results in the output folder first."""
    trained_on: list[str] | None = None
    """Tasks whose data the head was trained on, in mteb's names; they are marked wherever they are shown. A task whose
    data set is the source of the run counts without being named."""
    instruction_template: str = ""
    """For instruction models, such as "Instruct: {instruction}\\nQuery: ": put before all texts but the documents of a
    search, with the description that mteb has of each task in place of {instruction}; \\n is a new line."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts in one pass of the backbone (default: 32)."""
    device: str | None = None
    """cpu, cuda, ...; default the best there is."""
    trust_remote_code: bool = False
    """Run code of the backbone's repository; read it first."""

    @property
    def measured_ks(self) -> list[int]:
        """Active latents that are measured."""
        if self.ks is not None:
            return self.ks
        return [] if self.bytes else [4, 8, 16, 32, 64]

    def __post_init__(self) -> None:
        # Shells pass a backslash and an n.
        self.instruction_template = self.instruction_template.replace("\\n", "\n")
        if self.instruction_template and "{instruction}" not in self.instruction_template:
            raise ValueError(
                f"`instruction_template` ({self.instruction_template!r}) has no place for the instruction of a task. "
                "Write {instruction} there."
            )
