"""Images in whatever form they come, as the RGB pictures that every image model takes."""

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
"""Of image files that are found by their name."""
# Image processors take the axis of length 1 or 3 for the colors.
_LEAST_SIDE = 4
_THUMBNAIL = 128


def is_image(value: object) -> bool:
    """Whether a value stands for an image: one of PIL, an array, a `Path`, or text that names an image file here."""
    if isinstance(value, str):
        # The end first: texts are not looked up on the disk. `os.path` knows names that are too long for one.
        return value[-5:].lower().endswith(SUFFIXES) and os.path.isfile(value)
    if isinstance(value, np.ndarray):
        # Of one axis it is a list, of four a list of images.
        return value.ndim in (2, 3) and value.dtype.kind in "biuf"
    return isinstance(value, Path) or _is_picture(value)


def open_image(value: Any, name: str | None = None) -> Image:
    """An RGB image of PIL.

    Transparent parts become white, 16 bits become 8, only the first frame of several is taken, and pictures of fewer
    than four pixels a side are enlarged, because image processors cannot tell their pixels from their colors.

    Args:
        value: an image of PIL, an array of shape (height, width), (height, width, 1), (..., 3) or (..., 4), integers
            from 0 to 255 or floats from 0 to 1; a path; encoded bytes; or a cell of a `datasets` column of images.
        name: what to call it in an error.

    Raises:
        ValueError: for a file that is missing, broken, or larger than PIL's limit against decompression bombs, or a
            value that is no image.
        ImportError: if Pillow is missing, with the line to type.
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
            return _usable(Image.fromarray(_pixels(value, name)))
        if isinstance(value, (bytes, str, Path)):
            with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as opened:
                return _usable(opened)
        if _is_picture(value):
            return _usable(value)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be read as an image: {reason}. Replace it, or leave it out.") from error
    raise ValueError(f"{name} is {type(value).__name__}, not an image. Give one of PIL, an array, a path or bytes.")


def thumbnail(value: Any, side: int = _THUMBNAIL) -> bytes:
    """A JPEG file of at most `side` pixels a side."""
    picture = open_image(value).copy()
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class ImageColumn(Sequence[Any]):
    """A column of images of a `datasets.Dataset`, opened when they are asked for.

    Args:
        dataset: with the column, which holds encoded images or paths.
        column: its name.
    """

    def __init__(self, dataset: Dataset, column: str) -> None:
        from datasets import Image

        self._dataset, self._column = dataset.select_columns([column]).cast_column(column, Image(decode=False)), column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> Any:
        """The image of a row, or a list of those of a slice."""
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        cell = self.encoded(row)
        try:
            return open_image(cell, f"image {cell.get('path') or row}")
        except ValueError as error:
            raise ValueError(f"{error} `data.skip_bad` (--skip-bad) does that with all such files.") from error

    def encoded(self, row: int) -> dict[str, Any]:
        """Its bytes, or its path where it has none."""
        return self._dataset[int(row)][self._column]

    def name(self, row: int) -> str:
        """Its path, or the number of its row."""
        return self.encoded(row).get("path") or str(row)

    def hashes(self) -> Iterator[str]:
        """A hash of the bytes of every image.

        Raises:
            ValueError: for a file that cannot be read.
        """
        for row in range(len(self)):
            cell = self.encoded(row)
            try:
                content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
            except (OSError, TypeError) as error:
                name = cell["path"] or row
                raise ValueError(f"image {name} cannot be read: {error}. Replace it, or leave it out.") from error
            yield hashlib.blake2b(content, digest_size=12).hexdigest()


def _is_picture(value: object) -> bool:
    # Whoever has such an image has imported Pillow; texts do without it.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _usable(picture: Image) -> Image:
    from PIL import Image

    picture.load()
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        largest = values.max(initial=0)
        # What PIL holds in 32 bits is mostly a file of 16, else one of 8.
        top = 255 if largest <= 255 and not picture.mode.startswith("I;16") else max(65_535, largest)
        picture = Image.fromarray((values.clip(0) * (255 / top)).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        picture = Image.new("RGBA", over.size, "white")
        picture.alpha_composite(over)
    picture = picture.convert("RGB")
    if min(picture.size) < _LEAST_SIDE:
        picture = picture.resize(
            (max(picture.width, _LEAST_SIDE), max(picture.height, _LEAST_SIDE)), Image.Resampling.NEAREST
        )
    return picture


def _pixels(array: np.ndarray, name: str) -> np.ndarray:
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
