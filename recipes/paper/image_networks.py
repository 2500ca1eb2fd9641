"""Train a small ResNet on CIFAR10's training split, and once more with nested losses, and save their embeddings.

    python recipes/paper/image_networks.py --output runs/images

The rival of the paper: Matryoshka representation learning (arXiv 2205.13147), the sum of the cross-entropies of
classifiers on the first 8, 16, ... dimensions of the embedding. Both networks have the same layers, seed and
schedule, and neither has seen the test split. Minutes are those of one core: the processor time on one thread,
decoding of the pictures left out. The same command leaves a network that is trained as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.provenance import provenance, record_command

DIMS = (8, 16, 32, 64, 128, 256)
"""Prefixes that the nested network is trained for; the last is the whole embedding."""
NETWORKS = {"plain": DIMS[-1:], "nested": DIMS}
"""Name of a network -> prefixes of its embedding with a classifier of their own."""
WIDTHS = (16, 32, 64)
BATCH, SHIFT = 128, 4
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.05
_EMBEDDED_AT_A_TIME = 1000


class Pictures(NamedTuple):
    """Labeled pictures in memory."""

    pixels: torch.Tensor
    """uint8, shape (n, 3, height, width)."""
    labels: torch.Tensor
    """int64, shape (n,)."""


class Block(nn.Module):
    """Two convolutions and a shortcut; a stride of 2 halves the sides."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Add what the convolutions find to the shortcut."""
        return F.relu(self.convolutions(maps) + self.shortcut(maps))


class ResNet(nn.Module):
    """A ResNet of three blocks whose embedding is the mean over places of its last layer, after a ReLU.

    Args:
        dims: prefixes of the embedding with a classifier of their own; the last is the whole embedding.
        classes: number of classes.
    """

    def __init__(self, dims: tuple[int, ...], classes: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, 4, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            Block(first, first, 1),
            Block(first, second, 2),
            Block(second, third, 2),
            nn.Conv2d(third, dims[-1], 1, bias=False),
            nn.BatchNorm2d(dims[-1]),
            nn.ReLU(),
        )
        self.classifiers = nn.ModuleList(nn.Linear(dim, classes) for dim in dims)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures of values around 0, shape (n, 3, height, width)."""
        maps: torch.Tensor = self.layers(pixels.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))

    def compute_loss(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add up the cross-entropies of all classifiers."""
        losses = [F.cross_entropy(each(embeddings[:, : each.in_features]), labels) for each in self.classifiers]
        return torch.stack(losses).sum()


def read_pictures(data: str, split: str, limit: int | None) -> Pictures:
    """Read a split of a data set of labeled pictures."""
    rows = datasets.load_dataset(data, split=split)
    rows = rows.select(range(min(limit or len(rows), len(rows))))
    column = next(name for name in ("image", "img") if name in rows.column_names)
    pictures = [np.asarray(each.convert("RGB")) for each in tqdm(rows[column], desc=split, unit="picture")]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, torch.tensor(rows["label"]))


def shift_and_mirror(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each picture by some pixels, and mirror half of them."""
    n, _, height, width = pixels.shape
    padded = F.pad(pixels.float(), (SHIFT,) * 4, mode="reflect")
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    places = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def standardize(pixels: torch.Tensor) -> torch.Tensor:
    """Map 0 to 255 to values around 0."""
    return (pixels.float() - 120) / 64


def train_network(pictures: Pictures, dims: tuple[int, ...], epochs: float, seed: int) -> ResNet:
    """Train a network with a classifier on each of the prefixes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = ResNet(dims, int(pictures.labels.max()) + 1).to(memory_format=torch.channels_last)
    steps = max(1, round(epochs * len(pictures.labels) / BATCH))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps + 1, pct_start=0.25)
    order = torch.empty(0, dtype=torch.int64)
    with tqdm(range(steps), desc="training", unit="step", mininterval=10) as bar:
        for _ in bar:
            if len(order) < min(BATCH, len(pictures.labels)):
                order = torch.randperm(len(pictures.labels), generator=generator)
            chosen, order = order[:BATCH], order[BATCH:]
            pixels = standardize(shift_and_mirror(pictures.pixels[chosen], generator))
            loss = network.compute_loss(network.embed(pixels), pictures.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    return network.eval()


@torch.inference_mode()
def embed_pictures(network: ResNet, pictures: Pictures) -> np.ndarray:
    """Embed pictures as they are, float32, shape (n, dims[-1])."""
    return torch.cat([network.embed(standardize(part)) for part in pictures.pixels.split(_EMBEDDED_AT_A_TIME)]).numpy()


@torch.inference_mode()
def measure_classifiers(network: ResNet, embeddings: np.ndarray, labels: torch.Tensor) -> dict[str, float]:
    """Measure the accuracy of each of the network's own classifiers, by the dimensions it reads."""
    rows = torch.from_numpy(embeddings)
    return {
        str(each.in_features): float((each(rows[:, : each.in_features]).argmax(1) == labels).float().mean())
        for each in network.classifiers
    }


def make_embeddings(
    dims: tuple[int, ...], train: Pictures, test: Pictures, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Train a network, write `train.npz` and `test.npz` (embedding and label) and what it took."""
    began = time.process_time()
    network = train_network(train, dims, options.epochs, options.seed)
    trained = time.process_time()
    embeddings = embed_pictures(network, train)
    embedded = time.process_time()
    tested = embed_pictures(network, test)
    for name, rows, pictures in (("train", embeddings, train), ("test", tested, test)):
        with write_whole(folder / f"{name}.npz") as path, path.open("wb") as file:
            np.savez(file, embedding=rows, label=pictures.labels.numpy())
    return {
        "minutes_training": (trained - began) / 60,
        "minutes_embedding": (embedded - trained) / 60,
        "classifier_accuracy": measure_classifiers(network, tested, test.labels),
        "parameters": sum(parameter.numel() for parameter in network.layers.parameters()),
        "train_pictures": len(train.labels),
        "test_pictures": len(test.labels),
        "epochs": options.epochs,
        "seed": options.seed,
        "dims": list(dims),
    }


def main(arguments: list[str] | None = None) -> None:
    """Train the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--data", default="mteb/cifar10", help="data set with splits train and test (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=float, default=3, help="(default: %(default)s)")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--limit", type=int, help="pictures of each split (default: all)")
    options = parser.parse_args(arguments)
    record_command(" ".join(["python", *sys.argv]))
    torch.set_num_threads(1)
    train, test = (read_pictures(options.data, split, options.limit) for split in ("train", "test"))
    for name in options.networks.split(","):
        dims, folder = NETWORKS[name], options.output / name
        if (folder / "network.json").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        found = make_embeddings(dims, train, test, options, folder)
        with write_whole(folder / "network.json") as path:
            path.write_text(json.dumps({**found, **provenance()}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
