"""Open images of many forms as the RGB images of PIL that image models take."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import importlib.util
import io
import logging
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

logger = logging.getLogger(__name__)

SUFFIXES = tuple(".avif .bmp .gif .heic .heif .jfif .jpe .jpeg .jpg .png .tif .tiff .webp".split())
"""Endings of names that are taken for image files."""
_DATA_URL = "data:image/"
_HEIF_SUFFIXES = (".heic", ".heif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Shorter sides are ambiguous: image processors take an axis of length 1 or 3 for the colors.
_LEAST_SIDE = 4
_THUMBNAIL = 128


def is_image(value: object) -> bool:
    """Tell whether a value is an image: one of PIL, an array, bytes, a path, a data URL, or the name of an image file.

    Arrays and tensors are images if they have two or three axes of numbers.
    """
    if isinstance(value, str):
        # The ending first, so that texts cause no disk access. `os.path.isfile` accepts strings too long for a path.
        return value.startswith(_DATA_URL) or (value[-5:].lower().endswith(SUFFIXES) and os.path.isfile(value))
    if isinstance(value, np.ndarray):
        # An array of one axis is a list of numbers, one of four a batch of images.
        return value.ndim in (2, 3) and value.dtype.kind in "biuf"
    if _is_tensor(value):
        return value.ndim in (2, 3)  # type: ignore[attr-defined]
    return isinstance(value, Path | bytes) or _is_pil_image(value)


def names_missing_image(text: str) -> bool:
    """Tell whether a text is the path of an image file that is not there, rather than words that end like one."""
    is_path = len(text.split()) == 1 or os.sep in text
    return is_path and text.lower().endswith(SUFFIXES) and not is_image(text)


def missing_reader(suffix: str) -> str | None:
    """Return the pip command that installs a reader of image files with an ending; None where there is a reader."""
    if suffix.lower() in _HEIF_SUFFIXES and importlib.util.find_spec("pillow_heif") is None:
        return "pip install pillow-heif"
    if suffix.lower() == ".avif":
        from PIL import features

        return None if features.check("avif") else 'pip install -U "pillow>=11.3"'
    return None


def open_image(value: Any, name: str | None = None) -> Image:
    """Open an image as RGB, as transformers and sentence-transformers do.

    A file is turned upright as its EXIF orientation says, and loses its transparency; an image of PIL or an array
    stands as it is, and its transparent parts become white. An animation gives its first frame. 16 bits become 8,
    where transformers would make nearly all of them white. Sides of fewer than four pixels are enlarged to four,
    because image processors would mistake them for the axis of colors.

    Args:
        value: an image of PIL; an array or a tensor of shape (height, width), (height, width, channels) or
            (channels, height, width) with 1, 3 or 4 channels, integers from 0 to 255 or floats from 0 to 1 or to 255;
            a path; encoded bytes; a data URL; or a cell of a `datasets` column of images.
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
    name = name or (str(value)[:200] if isinstance(value, (str, Path)) else "the image")
    try:
        if isinstance(value, str) and value.startswith(_DATA_URL):
            value = base64.b64decode(value.partition(",")[2])
        if isinstance(value, bytes | str | Path):
            return _open_file(value)
        if isinstance(value, np.ndarray) or _is_tensor(value):
            return _to_rgb(Image.fromarray(_to_pixels(_to_array(value), name)))
        if _is_pil_image(value):
            return _to_rgb(value)
    except (
        *(UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning),
        *(OSError, SyntaxError, EOFError, struct.error, binascii.Error),
    ) as error:
        raise ValueError(f"{name} cannot be read as an image: {_explain(value, error)}") from error
    raise ValueError(f"{name} is {type(value).__name__}, not an image. Give one of PIL, an array, a path or bytes.")


def prepare_image(value: Any, name: str) -> Image | np.ndarray:
    """Prepare an image for the image processor of a model, so that the embedding is that of sentence-transformers.

    Colored arrays of floats from 0 to 1 pass as they are: most processors divide them by 255 as they divide bytes, and
    the model sees next to black. A warning says so, once. All other images are opened by `open_image`.

    Args:
        value: an image that `open_image` takes.
        name: name of the image in messages.

    Raises:
        ValueError: as `open_image` does.
    """
    array = _to_array(value) if isinstance(value, np.ndarray) or _is_tensor(value) else None
    if array is not None and array.dtype.kind == "f" and array.ndim == 3 and array.max(initial=0) <= 1:
        _to_pixels(array, name)
        _warn_of_unit_floats()
        return np.ascontiguousarray(array, np.float32)
    return open_image(value, name)


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
            raise ValueError(f"{error} `data.skip_bad` (--skip-bad) leaves out all that cannot be read.") from error

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


@functools.cache
def _warn_of_unit_floats() -> None:
    logger.warning(
        "an image is an array of floats from 0 to 1, which most image processors divide by 255 once more. Give "
        "image * 255, or load the backbone with processor_kwargs={'do_rescale': False}."
    )


def _is_pil_image(value: object) -> bool:
    # An image of PIL exists only where Pillow is imported already; texts need no Pillow.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_tensor(value: object) -> bool:
    # A tensor exists only where PyTorch is imported already.
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def _open_file(content: bytes | str | Path) -> Image:
    """Open a file as `transformers.image_utils.load_image` does: upright, and without what makes it transparent."""
    from PIL import Image, ImageOps

    if _is_heif(content) and missing_reader(".heic") is None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
        image = ImageOps.exif_transpose(opened)
        image = image if _is_deep(image) else image.convert("RGB")
        image.info.pop("transparency", None)
        return _to_rgb(image)


def _is_heif(content: object) -> bool:
    if isinstance(content, bytes):
        return content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS
    return str(content).lower().endswith(_HEIF_SUFFIXES)


def _explain(content: object, error: Exception) -> str:
    """Say why a file is no image, and what to do."""
    suffix = ".heic" if _is_heif(content) else os.path.splitext(str(content)[-200:])[1]
    command = None if isinstance(error, FileNotFoundError) else missing_reader(suffix)
    if command:
        return f"Pillow alone does not know its format. Install a reader: {command}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{reason}. Replace it, or leave it out."


def _is_deep(image: Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _to_rgb(image: Image) -> Image:
    """Convert an image to 8-bit RGB without transparency, at least `_LEAST_SIDE` pixels a side."""
    from PIL import Image as pil

    image.load()
    if _is_deep(image):
        values = np.asarray(image).astype(np.float64)
        largest = values.max(initial=0)
        # 32-bit images of PIL mostly come from files of 16 bits, others from files of 8. Floats are those of arrays.
        top = 255 if largest <= 255 and not image.mode.startswith("I;16") else max(65_535, largest)
        top = 1 if image.mode == "F" and largest <= 1 else top
        image = pil.fromarray((values.clip(0) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = pil.new("RGBA", over.size, "white")
        image.alpha_composite(over)
    image = image.convert("RGB")
    if min(image.size) < _LEAST_SIDE:
        image = image.resize((max(image.width, _LEAST_SIDE), max(image.height, _LEAST_SIDE)), pil.Resampling.NEAREST)
    return image


def _to_array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    tensor = value.detach().cpu()
    # NumPy knows no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _to_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """Convert an array to pixels that PIL takes, the channels last, and check its shape and range."""
    # As image processors do, the first axis before the last.
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[1] > 0:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ValueError(
            f"{name} is an array of shape {array.shape}, not (height, width) or (height, width, 3 or 4) or "
            "(3 or 4, height, width)."
        )
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16 and array.ndim == 2:
        return array
    if not (array.dtype.kind in "iu" or np.isfinite(array).all()) or array.min() < 0 or array.max() > 255:
        raise ValueError(f"{name} holds values outside of 0 to 255. Scale them to that range.")
    is_unit = array.dtype.kind == "f" and array.max() <= 1
    return (array * (255 if is_unit else 1)).round().astype(np.uint8)
