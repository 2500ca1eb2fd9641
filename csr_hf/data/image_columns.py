"""Select the images of a data set, drop those that cannot be opened, and make previews of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from csr_hf.embedding.images import ImageColumn, make_thumbnail
from csr_hf.plumbing.threads import available_threads

if TYPE_CHECKING:
    from datasets import Dataset


def select_images(dataset: Dataset, column: str) -> Dataset:
    """Select a column of images as a data set with the one column `image`, not decoded.

    Args:
        dataset: any data set.
        column: name of a column of `datasets` images, encoded bytes, paths, or mappings of `bytes` and `path`.

    Raises:
        ValueError: if the column holds something else.
    """
    import pyarrow
    from datasets import Image

    try:
        images = dataset.select_columns([column]).cast_column(column, Image(decode=False))
    except (TypeError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"column {column!r} holds {dataset.features[column]}, not images. Give encoded images or paths."
        ) from error
    return images if column == "image" else images.rename_column(column, "image")


def check_images(dataset: Dataset, skip_bad: bool) -> tuple[Dataset, tuple[str, ...]]:
    """Drop rows without an image and, on request, those whose image cannot be opened.

    Args:
        dataset: with a column `image`.
        skip_bad: open every image, and drop the broken ones.

    Returns:
        The remaining rows, and the names of the broken images.
    """
    images = ImageColumn(dataset, "image")
    present = [row for row in range(len(images)) if _has_image(images.encoded(row))]
    if not skip_bad:
        return (dataset if len(present) == len(images) else dataset.select(present)), ()

    def opens(row: int) -> bool:
        try:
            images[row]
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(available_threads()) as pool:
        good = list(pool.map(opens, present))
    kept = [row for row, is_good in zip(present, good, strict=True) if is_good]
    bad = tuple(images.name(row) for row, is_good in zip(present, good, strict=True) if not is_good)
    return dataset.select(kept), bad


def make_previews(dataset: Dataset) -> Dataset:
    """Make the columns that a search shows of images: `id`, `text` and `thumbnail`.

    Args:
        dataset: with columns `id` and `image`, and perhaps `text` or `label`.

    Returns:
        A data set of as many rows. `text` is the text, else the label, else the id; `thumbnail` a JPEG file, or None
        where the id is the path of the image.
    """
    from datasets import Dataset, Features, Value

    images, ids = ImageColumn(dataset, "image"), dataset["id"][:]
    shown = next((name for name in ("text", "label") if name in dataset.column_names), "id")
    thumbnails = [
        None if images.encoded(row).get("path") == name and os.path.isfile(name) else make_thumbnail(images[row])
        for row, name in enumerate(ids)
    ]
    columns = {"id": ids, "text": [str(value) for value in dataset[shown][:]], "thumbnail": thumbnails}
    features = Features({"id": Value("string"), "text": Value("string"), "thumbnail": Value("binary")})
    return Dataset.from_dict(columns, features=features)


def _has_image(cell: dict | None) -> bool:
    return cell is not None and (cell["bytes"] is not None or bool(cell["path"]))
