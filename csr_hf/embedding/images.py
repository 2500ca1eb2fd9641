"""Open images of many forms as the RGB images of PIL that image models take."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of names that are taken for image files."""
# Shorter sides are ambiguous: image processors take an axis of length 1 or 3 for the colors.
_LEAST_SIDE = 4
_THUMBNAIL = 128


def is_image(value: object) -> bool:
    """Tell whether a value is an image: one of PIL, an array, a `Path`, or a string that names an image file."""
    if isinstance(value, str):
        # The ending first, so that texts cause no disk access. `os.path.isfile` accepts strings too long for a path.
        return value[-5:].lower().endswith(SUFFIXES) and os.path.isfile(value)
    if isinstance(value, np.ndarray):
        # An array of one axis is a list of numbers, one of four a batch of images.
        return value.ndim in (2, 3) and value.dtype.kind in "biuf"
    return isinstance(value, Path) or _is_pil_image(value)


def open_image(value: Any, name: str | None = None) -> Image:
    """Open an image as RGB.

    Transparent parts become white, 16 bits become 8, an animation gives its first frame, and sides of fewer than four
    pixels are enlarged to four, because image processors would mistake them for the axis of colors.

    Args:
        value: an image of PIL; an array of shape (height, width), (height, width, 1), (..., 3) or (..., 4), integers
            from 0 to 255 or floats from 0 to 1; a path; encoded bytes; or a cell of a `datasets` column of images.
        name: name of the image in errors; default its path, else "the image".

    Raises:
        ValueError: if the file is missing, broken, or larger than PIL's limit against decompression bombs, or the
            value is no image.
        ImportError: if Pillow is missing; the message says how to install it.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError('images need pillow: pip install "csr_hf[images]"') from error
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        name = name or value.get("path")
        value = value["bytes"] if value.get("bytes") is not None else Path(value["path"] or "")
    name = name or (str(value) if isinstance(value, (str, Path)) else "the image")
    try:
        if isinstance(value, np.ndarray):
            return _to_rgb(Image.fromarray(_to_pixels(value, name)))
        if isinstance(value, (bytes, str, Path)):
            with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as opened:
                return _to_rgb(opened)
        if _is_pil_image(value):
            return _to_rgb(value)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be read as an image: {reason}. Replace it, or leave it out.") from error
    raise ValueError(f"{name} is {type(value).__name__}, not an image. Give one of PIL, an array, a path or bytes.")


def make_thumbnail(value: Any, side: int = _THUMBNAIL) -> bytes:
    """Make a JPEG file of at most `side` pixels a side from an image that `open_image` takes."""
    image = open_image(value).copy()
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class ImageColumn(Sequence[Any]):
    """A column of images of a `datasets.Dataset`, each opened when it is read.

    Args:
        dataset: any data set.
        column: name of a column that holds encoded images or paths.
    """

    def __init__(self, dataset: Dataset, column: str) -> None:
        from datasets import Image

        self._dataset, self._column = dataset.select_columns([column]).cast_column(column, Image(decode=False)), column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> Any:
        """Open the image of a row, or a list of the images of a slice."""
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        cell = self.encoded(row)
        try:
            return open_image(cell, f"image {cell.get('path') or row}")
        except ValueError as error:
            raise ValueError(f"{error} `data.skip_bad` (--skip-bad) does that with all such files.") from error

    def encoded(self, row: int) -> dict[str, Any]:
        """Return the cell of a row, not decoded: a mapping of `bytes` and `path`, of which one may be None."""
        return self._dataset[int(row)][self._column]

    def name(self, row: int) -> str:
        """Return the path of a row's image, or the row number if it has no path."""
        return self.encoded(row).get("path") or str(row)

    def hashes(self) -> Iterator[str]:
        """Yield a hash of the file of every image, in order.

        Raises:
            ValueError: if a file cannot be read.
        """
        for row in range(len(self)):
            cell = self.encoded(row)
            try:
                content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
            except (OSError, TypeError) as error:
                name = cell["path"] or row
                raise ValueError(f"image {name} cannot be read: {error}. Replace it, or leave it out.") from error
            yield hashlib.blake2b(content, digest_size=12).hexdigest()


def _is_pil_image(value: object) -> bool:
    # An image of PIL exists only where Pillow is imported already; texts need no Pillow.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _to_rgb(image: Image) -> Image:
    """Convert an image to 8-bit RGB without transparency, at least `_LEAST_SIDE` pixels a side."""
    from PIL import Image as pil

    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        largest = values.max(initial=0)
        # 32-bit images of PIL mostly come from files of 16 bits, others from files of 8.
        top = 255 if largest <= 255 and not image.mode.startswith("I;16") else max(65_535, largest)
        image = pil.fromarray((values.clip(0) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = pil.new("RGBA", over.size, "white")
        image.alpha_composite(over)
    image = image.convert("RGB")
    if min(image.size) < _LEAST_SIDE:
        image = image.resize((max(image.width, _LEAST_SIDE), max(image.height, _LEAST_SIDE)), pil.Resampling.NEAREST)
    return image


def _to_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """Convert an array to pixels that PIL takes, and check its shape and range."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ValueError(f"{name} is an array of shape {array.shape}, not (height, width) or (height, width, 3 or 4).")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(f"{name} holds floats outside of 0 to 1. Scale them, or give integers from 0 to 255.")
        return (array * 255).round().astype(np.uint8)
    if array.dtype == np.uint16 and array.ndim == 2:
        return array
    if array.dtype != bool and (array.min() < 0 or array.max() > 255):
        raise ValueError(f"{name} holds integers outside of 0 to 255.")
    return (array * 255 if array.dtype == bool else array).astype(np.uint8)
