"""Training speed from cached embeddings: ours, the paper's loop in plain torch, and sentence-transformers' trainer.

All learn reconstruction at k and 4k and the contrast of each code with itself, on the same rows, batch and sizes. The
auxiliary term, which costs something only while latents are dead, is left out of the plain loop. Sentence-transformers
contrasts pairs alone: both halves are the same row, which it encodes twice.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from csr_hf.bench.contest import Contest, Contestant, PeakMemory, compete, conditions
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.trainer import CSRTrainer

OURS, PLAIN, SENTENCE_TRANSFORMERS = "csr_hf", "plain loop", "sentence-transformers"


@dataclass(frozen=True)
class TrainingSizes:
    """What is trained."""

    input_dim: int = 384
    hidden_dim: int = 1536
    k: int = 32
    batch_size: int = 1024
    rows: int = 20_000
    steps: int = 20
    """Steps in one measurement."""


def bench_training(sizes: TrainingSizes, *, repeats: int = 5, progress: bool = True, command: str = "") -> Contest:
    """Time all contestants in turns; each also runs once in a process of its own for its peak memory.

    Args:
        sizes: of head, batch and data.
        repeats: measurements of each contestant.
        progress: show a bar.
        command: the command line, recorded with the result.
    """
    contestants = [Contestant(name, make(sizes)) for name, make in _CONTESTANTS.items()]
    timings = compete(contestants, repeats, sizes.steps * sizes.batch_size, progress=progress)
    for timing in timings:
        timing.peak_mb = _peak_memory(timing.name, sizes)
    title = f"training {sizes.input_dim} -> {sizes.hidden_dim}, k {sizes.k}, batch {sizes.batch_size}"
    details = {"command": command, **conditions(), "threads": torch.get_num_threads()}
    return Contest(title, "examples", timings, {**details, **asdict(sizes)})


def _data(sizes: TrainingSizes) -> np.ndarray:
    """Unit rows near combinations of a few of many directions, as embeddings are."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((4 * sizes.input_dim, sizes.input_dim)).astype(np.float32)
    rows = np.empty((sizes.rows, sizes.input_dim), np.float16)
    for start in range(0, sizes.rows, 4096):
        chosen = rng.integers(0, len(directions), (len(rows[start : start + 4096]), 16))
        block = (rng.random((*chosen.shape, 1), np.float32) * directions[chosen]).sum(1)
        rows[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _head(sizes: TrainingSizes) -> CSRModel:
    torch.manual_seed(0)
    config = CSRConfig(input_dim=sizes.input_dim, hidden_dim=sizes.hidden_dim, k=sizes.k)
    return CSRModel(config)


def _ours(sizes: TrainingSizes) -> Callable[[], float]:
    arguments = CSRTrainingArguments.from_preset(
        "csr", max_steps=10**6, per_device_train_batch_size=sizes.batch_size, save_steps=0, logging_steps=10**6
    )
    trainer = CSRTrainer(_head(sizes), arguments, _data(sizes), tempfile.mkdtemp(prefix="csr_hf-bench-"))

    def run() -> float:
        return trainer.train(progress=False, until=trainer.step + sizes.steps)["seconds"]

    return run


def _plain(sizes: TrainingSizes) -> Callable[[], float]:
    """Dense latents; a forward pass for each of k, 4k and the second view of the contrast, as in the paper's code."""
    head, data = _head(sizes), torch.from_numpy(_data(sizes))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head.to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-4, eps=6.25e-10)
    generator = torch.Generator().manual_seed(0)

    def forward(rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        pre = head.pre_activations(rows)
        values, indices = torch.topk(pre, k, dim=-1)
        latents = torch.zeros_like(pre).scatter(-1, indices, torch.relu(values))
        return latents, latents @ head.encoder.weight + head.pre_bias

    def run() -> float:
        started = time.perf_counter()
        for _ in range(sizes.steps):
            rows = data[torch.randint(len(data), (sizes.batch_size,), generator=generator)].float().to(device)
            latents, decoded = forward(rows, sizes.k)
            loss = (
                F.mse_loss(decoded, rows) + F.mse_loss(forward(rows, min(4 * sizes.k, sizes.hidden_dim))[1], rows) / 8
            )
            second, _ = forward(rows, sizes.k)
            logits = F.normalize(latents, dim=-1) @ F.normalize(second, dim=-1).t() / 0.2
            loss = loss + 0.1 * F.cross_entropy(logits, torch.arange(len(logits), device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


def _sentence_transformers(sizes: TrainingSizes) -> Callable[[], float]:
    """Its trainer and CSRLoss; the backbone is a table of the embeddings, looked up by row number."""
    from datasets import Dataset
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
    from sentence_transformers.base.modules.input_module import InputModule
    from sentence_transformers.sparse_encoder.losses import CSRLoss
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
    from transformers import PrinterCallback

    table = torch.from_numpy(_data(sizes)).float()

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
    numbers = [str(row) for row in np.random.default_rng(0).permutation(sizes.rows)]
    arguments = SparseEncoderTrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="csr_hf-bench-"),
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


_CONTESTANTS: dict[str, Callable[[TrainingSizes], Callable[[], float]]] = {
    OURS: _ours,
    PLAIN: _plain,
    SENTENCE_TRANSFORMERS: _sentence_transformers,
}


def _peak_memory(name: str, sizes: TrainingSizes) -> float:
    """MB that a process of its own takes at most for the work, beyond libraries and data."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_peak, (name, sizes))


def _measure_peak(name: str, sizes: TrainingSizes) -> float:
    run = _CONTESTANTS[name](sizes)
    with PeakMemory() as peak:
        run()
    return peak.mb
