"""Measure csr_hf's training beside a plain loop and sentence-transformers' trainer, from embeddings in memory.

All learn reconstruction at k and 4k and the contrast of each code with itself, on the same rows, batch and sizes, and
take turns. The auxiliary term, which costs something only while latents are dead, is left out of the plain loop.
Sentence-transformers contrasts pairs alone: both halves are the same row, which it encodes twice. Each also runs once
in a process of its own, for its peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from csr_hf.plumbing.atomic import check_writable, write_whole
from csr_hf.plumbing.provenance import record_command
from csr_hf.plumbing.redaction import shareable
from csr_hf.plumbing.threads import spin_briefly
from data import open_embeddings
from measure import PeakMemory, conditions, ratio_by_turn, time_in_turns

if TYPE_CHECKING:
    import torch

    from csr_hf.modeling_csr import CSRModel

_EXAMPLES = """
examples:
  python recipes/bench/train.py
  python recipes/bench/train.py --embeddings embeddings.npy --hidden-dim 4096
  python recipes/bench/train.py --input-dim 4096 --hidden-dim 16384 --batch-size 4096 --output bench/train.json
"""


@dataclass(frozen=True)
class Sizes:
    """What is trained."""

    input_dim: int
    hidden_dim: int
    k: int
    batch_size: int
    steps: int
    """In one measurement."""
    rows: int = 20_000
    embeddings: str | None = None
    """File of the rows; None makes them up."""
    folder: str | None = None
    """Where trainers write."""


def training_rows(sizes: Sizes) -> np.ndarray:
    """Read the first rows of a file, or make unit rows near combinations of a few of many directions; float16."""
    if sizes.embeddings is not None:
        return open_embeddings(Path(sizes.embeddings), "--embeddings")[: sizes.rows].astype(np.float16)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((4 * sizes.input_dim, sizes.input_dim)).astype(np.float32)
    rows = np.empty((sizes.rows, sizes.input_dim), np.float16)
    for start in range(0, sizes.rows, 4096):
        chosen = rng.integers(0, len(directions), (len(rows[start : start + 4096]), 16))
        block = (rng.random((*chosen.shape, 1), np.float32) * directions[chosen]).sum(1)
        rows[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _head(sizes: Sizes) -> CSRModel:
    import torch

    from csr_hf import CSRConfig, CSRModel

    torch.manual_seed(0)
    return CSRModel(CSRConfig(input_dim=sizes.input_dim, hidden_dim=sizes.hidden_dim, k=sizes.k))


def csr_hf_trainer(sizes: Sizes) -> Callable[[], float]:
    """Make csr_hf's trainer, with the paper's terms."""
    from csr_hf.training.arguments import CSRTrainingArguments
    from csr_hf.training.trainer import CSRTrainer

    args = CSRTrainingArguments.from_preset(
        "csr",
        output_dir=tempfile.mkdtemp(dir=sizes.folder),
        max_steps=10**6,
        per_device_train_batch_size=sizes.batch_size,
        save_steps=0,
        logging_steps=10**6,
    )
    trainer = CSRTrainer(_head(sizes), args, training_rows(sizes))

    def run() -> float:
        return trainer.train(until=trainer.step + sizes.steps)["seconds"]

    return run


def plain_loop(sizes: Sizes) -> Callable[[], float]:
    """Make a loop of plain torch, as the paper's code has it.

    Latents are dense, and k, 4k and the second view of the contrast take a forward pass each.
    """
    import torch
    import torch.nn.functional as F

    head, data = _head(sizes), torch.from_numpy(training_rows(sizes))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head.to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-4, eps=6.25e-10)
    generator = torch.Generator().manual_seed(0)
    largest_k = min(4 * sizes.k, sizes.hidden_dim)

    def forward(rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        pre = head.pre_activations(rows)
        values, indices = torch.topk(pre, k, dim=-1)
        latents = torch.zeros_like(pre).scatter(-1, indices, torch.relu(values))
        return latents, latents @ head.encoder.weight + head.pre_bias

    def step() -> None:
        rows = data[torch.randint(len(data), (sizes.batch_size,), generator=generator)].float().to(device)
        latents, decoded = forward(rows, sizes.k)
        loss = F.mse_loss(decoded, rows) + F.mse_loss(forward(rows, largest_k)[1], rows) / 8
        second, _ = forward(rows, sizes.k)
        logits = F.normalize(latents, dim=-1) @ F.normalize(second, dim=-1).t() / 0.2
        loss = loss + 0.1 * F.cross_entropy(logits, torch.arange(len(logits), device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run() -> float:
        began = time.perf_counter()
        for _ in range(sizes.steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return run


def sentence_transformers_trainer(sizes: Sizes) -> Callable[[], float]:
    """Make sentence-transformers' trainer and CSRLoss; its backbone is a table of the rows, looked up by number."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
    from sentence_transformers.base.modules.input_module import InputModule
    from sentence_transformers.sparse_encoder.losses import CSRLoss
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
    from transformers import PrinterCallback

    table = torch.from_numpy(training_rows(sizes)).float()

    class Lookup(InputModule):
        def preprocess(self, inputs: Any, prompt: str | None = None, **_: object) -> dict[str, torch.Tensor]:
            return {"input_ids": torch.tensor([int(text) for text in inputs])}

        def forward(self, features: dict[str, torch.Tensor], **_: object) -> dict[str, torch.Tensor]:
            features["sentence_embedding"] = table.to(features["input_ids"].device)[features["input_ids"]]
            return features

        def get_embedding_dimension(self) -> int:
            return sizes.input_dim

        def save(self, output_path: str, *_: object, **__: object) -> None:
            pass

    head = SparseAutoEncoder(sizes.input_dim, sizes.hidden_dim, sizes.k, k_aux=min(512, sizes.hidden_dim // 2))
    model = SparseEncoder(modules=[Lookup(), head])
    numbers = [str(row) for row in np.random.default_rng(0).permutation(len(table))]
    arguments = SparseEncoderTrainingArguments(
        output_dir=tempfile.mkdtemp(dir=sizes.folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.batch_size,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        learning_rate=4e-4,
    )
    trainer = SparseEncoderTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"anchor": numbers, "positive": numbers}),
        loss=CSRLoss(model, beta=1 / 32, gamma=0.1),
    )
    trainer.remove_callback(PrinterCallback)

    def run() -> float:
        return float(trainer.train().metrics["train_runtime"])

    return run


SYSTEMS: dict[str, Callable[[Sizes], Callable[[], float]]] = {
    "csr_hf": csr_hf_trainer,
    "plain loop": plain_loop,
    "sentence-transformers": sentence_transformers_trainer,
}


def _peak_mb(name: str, sizes: Sizes) -> float:
    """Train in a process of its own; return the memory it takes at most beyond libraries and data, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_peak, (name, sizes))


def _measure_peak(name: str, sizes: Sizes) -> float:
    run = SYSTEMS[name](sizes)
    with PeakMemory() as peak:
        run()
    return peak.mb


def measure(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time all systems in turns, and return what the JSON file holds.

    Returns:
        `title`, `unit`, `timings` (of each system `name`, `seconds` by turn, `work` in examples, `peak_mb`),
        `details`, `rates` (examples a second, by system) and `times_faster` (csr_hf than each other system: the
        median of the ratios within each turn).
    """
    import torch

    seconds = time_in_turns([(name, make(sizes)) for name, make in SYSTEMS.items()], repeats)
    work = sizes.steps * sizes.batch_size
    timings = [
        {"name": name, "seconds": taken, "work": work, "peak_mb": _peak_mb(name, sizes)}
        for name, taken in zip(SYSTEMS, seconds, strict=True)
    ]
    first, *others = zip(SYSTEMS, seconds, strict=True)
    details = {**conditions(), "threads": torch.get_num_threads(), **asdict(replace(sizes, folder=None))}
    details.pop("folder")
    return {
        "title": f"training {sizes.input_dim} -> {sizes.hidden_dim}, k {sizes.k}, batch {sizes.batch_size}",
        "unit": "examples",
        "timings": timings,
        "details": shareable(details),
        "rates": {name: work / statistics.median(taken) for name, taken in zip(SYSTEMS, seconds, strict=True)},
        "times_faster": {name: ratio_by_turn(first[1], taken) for name, taken in others},
    }


def to_table(written: dict[str, Any]) -> Table:
    """Make a table for the terminal."""
    table = Table(title=written["title"], caption=written["details"]["machine"])
    table.add_column("system")
    for column in ("examples a second", "csr_hf is faster", "peak MB"):
        table.add_column(column, justify="right")
    for timing in written["timings"]:
        name = timing["name"]
        times = written["times_faster"].get(name)
        faster = "" if times is None else f"{times:.1f} times"
        table.add_row(name, f"{written['rates'][name]:,.0f}", faster, f"{timing['peak_mb']:,.0f}")
    return table


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add("--embeddings", help="npy file to train on, first 20,000 rows (default: made up)")
    add("--input-dim", type=int, default=384, help="width of rows that are made up (default: %(default)s)")
    add("--hidden-dim", type=int, default=1536, help="latents (default: %(default)s)")
    add("--k", type=int, default=32, help="active latents (default: %(default)s)")
    add("--batch-size", type=int, default=1024, help="examples in a step (default: %(default)s)")
    add("--steps", type=int, default=20, help="in one measurement (default: %(default)s)")
    add("--repeats", type=int, default=7, help="measurements of each (default: %(default)s)")
    add("--output", "-o", type=Path, help="JSON file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; 2 for what is wrong with it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    # Before torch is imported: its idle threads would spin on the cores that kernels are timed on.
    spin_briefly()
    record_command(shlex.join(["python", "recipes/bench/train.py", *arguments]))
    try:
        if min(options.steps, options.repeats) < 1:
            raise ValueError(f"`--steps` ({options.steps}) and `--repeats` ({options.repeats}) must be at least 1.")
        if options.output is not None:
            check_writable(options.output.parent)
        shape = (20_000, options.input_dim)
        if options.embeddings is not None:
            shape = open_embeddings(Path(options.embeddings), "--embeddings").shape
        sizes = Sizes(
            shape[1],
            options.hidden_dim,
            options.k,
            options.batch_size,
            options.steps,
            min(shape[0], 20_000),
            options.embeddings,
        )
        with tempfile.TemporaryDirectory(prefix="csr_hf-bench-") as folder:
            written = measure(replace(sizes, folder=folder), options.repeats)
    except (ValueError, OSError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    Console(width=120).print(to_table(written))
    if options.output is not None:
        with write_whole(options.output) as temporary:
            temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        print(f"written  {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
