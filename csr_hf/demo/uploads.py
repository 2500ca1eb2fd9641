"""Pictures that visitors of the page send: opened with limits, since nobody knows who sends them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from csr_hf.embedding.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 10_000_000
"""Of a file that is sent."""
MOST_PIXELS = 50_000_000
"""Of a picture: a small file may hold a huge one."""
# Pillow opens some formats by programs of others, such as Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")


def open_upload(content: bytes) -> Image:
    """Open a picture that a stranger sends, as RGB.

    Args:
        content: of an image file: AVIF, BMP, GIF, JPEG, PNG or WebP.

    Raises:
        ValueError: if it is of another format, broken, above 10 MB or above 50 million pixels.
        ImportError: if Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('pictures need pillow: pip install "csr_hf[images]"') from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"The picture has {len(content) / 1e6:,.0f} MB. Send one of at most 10 MB.")
    known = [name for name in _FORMATS if name in Image.registered_extensions().values()]
    try:
        with Image.open(io.BytesIO(content), formats=known) as opened:
            pixels = opened.width * opened.height
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError("The file is no picture that can be read. Send a JPEG, PNG or WebP file.") from error
    if pixels > MOST_PIXELS:
        raise ValueError(f"The picture has {pixels / 1e6:,.0f} million pixels. Send one of at most 50 million.")
    return open_image(content, "the picture")
