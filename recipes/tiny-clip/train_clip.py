"""Train a CLIP small enough for two cores, as a backbone to try heads on where no published one can be had.

    python recipes/tiny-clip/train_clip.py --emoji data/noto_emoji.parquet --output runs/tiny-clip

Emoji (72 px, with their Unicode names) and photographs of CIFAR10 (named by their class) are learned together. What
the recipes beside this file hold out is held out here too; of CIFAR10 only the training split is read.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from csr_hf.data.sources import Source, load_sources
from csr_hf.runs.recipe import RunRecipe

SIDE, PATCH, WIDTH, DIM, LENGTH = 32, 8, 128, 256, 24
SHIFT = 3
START, END = "<|startoftext|>", "<|endoftext|>"


def read_emoji(path: str) -> Source:
    """Read the emoji, with the split of the recipe."""
    recipe = RunRecipe.load(Path(__file__).with_name("emoji_k64.yaml"))
    return load_sources(dataclasses.replace(recipe.data, source=path, sources=[]))[0]


def read_photographs(count: int) -> tuple[list, list[str]]:
    """Read some of CIFAR10's training images, and write a caption for each."""
    rows = datasets.load_dataset("mteb/cifar10", split="train").shuffle(seed=0).select(range(count))
    names = rows.features["label"].names
    column = next(name for name in ("image", "img") if name in rows.column_names)
    return list(rows[column]), [f"a photo of a {names[label]}" for label in rows["label"]]


def make_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Train a tokenizer like CLIP's on the words of these captions."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    plain = CLIPTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[])
    trained = plain.train_new_from_iterator(captions, 2048)
    trained.model_max_length = LENGTH
    return trained


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make a new CLIP of 1.3 million parameters."""
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": LENGTH, **ends}
    vision = {"image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": 3}
    config = CLIPConfig(
        text_config={**size, **text, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**size, **vision},
        projection_dim=DIM,
    )
    return CLIPModel(config)


def draw_batches(groups: list[int], steps: int, size: int) -> Iterator[np.ndarray]:
    """Draw the rows of every step, an equal share from each of several groups of rows that follow one another."""
    rng, starts = np.random.default_rng(0), np.cumsum([0, *groups])
    for _ in range(steps):
        shares = [rng.integers(low, high, size // len(groups)) for low, high in itertools.pairwise(starts)]
        yield np.concatenate(shares)


def shift_images(pixels: torch.Tensor) -> torch.Tensor:
    """Move each image by a few pixels."""
    padded = F.pad(pixels, (SHIFT,) * 4, mode="replicate")
    places = torch.randint(0, 2 * SHIFT + 1, (len(pixels), 2))
    parts = [image[:, y : y + SIDE, x : x + SIDE] for image, (y, x) in zip(padded, places.tolist(), strict=True)]
    return torch.stack(parts)


def compute_loss(logits: torch.Tensor, captions: np.ndarray) -> torch.Tensor:
    """Compute CLIP's loss, where rows with the same caption are not told apart."""
    same = torch.from_numpy(captions[:, None] == captions[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", required=True, help="parquet file with the columns image and text")
    parser.add_argument("--photographs", type=int, default=20_000, help="of CIFAR10 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--output", required=True, help="folder to write")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(0)
    emoji = read_emoji(options.emoji)
    rows = np.flatnonzero(~emoji.held_out)
    pictures, names = emoji.inputs("image"), emoji.inputs("text")
    photographs, classes = read_photographs(options.photographs) if options.photographs else ([], [])
    captions = [names[int(row)] for row in rows] + classes
    tokenizer = make_tokenizer(captions)
    images = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    pixels = torch.cat(
        [
            images([picture.convert("RGB")], return_tensors="pt")["pixel_values"].half()
            for picture in tqdm([*(pictures[int(row)] for row in rows), *photographs], desc="images")
        ]
    )
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    model = make_model(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, options.steps, pct_start=0.1)
    numbers = np.unique(np.array(captions), return_inverse=True)[1]
    groups = [len(rows), *([len(photographs)] if photographs else [])]
    with tqdm(draw_batches(groups, options.steps, options.batch_size), total=options.steps, desc="training") as bar:
        for chosen in bar:
            places = torch.from_numpy(chosen)
            found = model(
                input_ids=tokens["input_ids"][places],
                attention_mask=tokens["attention_mask"][places],
                pixel_values=shift_images(pixels[places].float()),
            )
            loss = compute_loss(found.logits_per_image, numbers[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    model.eval().save_pretrained(options.output)
    processor.save_pretrained(options.output)
    tqdm.write(f"{options.output}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
