"""A CLIP of random weights, small enough to make in a second, and its images."""

import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

SMALL = [
    "--model.hidden_dim=96",
    "--model.k=8",
    "--training.max_steps=40",
    "--training.per_device_train_batch_size=32",
]
SMALL += ["--evaluation.ks=[8]", "--no-progress", "--data.held_out=0.3"]
WORDS = ["red", "green", "blue", "black", "white", "gray"]
COLORS = dict(
    zip(
        WORDS,
        [(220, 30, 30), (30, 200, 30), (40, 40, 230), (10, 10, 10), (250, 250, 250), (120, 120, 120)],
        strict=True,
    )
)


def save_clip(folder, dim=24):
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    last = len(tokens) - 1
    text = {"vocab_size": len(tokens), "max_position_embeddings": 32, "bos_token_id": last - 1, "eos_token_id": last}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **text, "pad_token_id": last},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=dim,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def picture(number, side=20):
    """Stripes of two colors, another for each number."""
    rng = np.random.default_rng(number)
    pixels = np.zeros((side, side, 3), np.uint8)
    first, second = rng.permutation(len(WORDS))[:2]
    pixels[:] = COLORS[WORDS[first]]
    pixels[:, :: int(rng.integers(2, 6))] = COLORS[WORDS[second]]
    pixels[int(rng.integers(side)) :] //= 2
    return Image.fromarray(pixels)


def save_photos(folder, n):
    """Write images as PNG, and their captions into `metadata.csv`."""
    folder.mkdir()
    lines = ["file_name,text"]
    for number in range(n):
        picture(number).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{caption(number)}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def caption(number):
    first, second = np.random.default_rng(number).permutation(len(WORDS))[:2]
    return f"number {number}: {WORDS[second]} stripes on {WORDS[first]}"
