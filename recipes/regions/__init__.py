"""What the regions of the pages hold: for each name a function that reads results files and writes Markdown."""

from collections.abc import Callable

from regions import explain, images, quality, speed, training, words

REGIONS: dict[str, Callable[[], str]] = {
    **quality.REGIONS,
    **training.REGIONS,
    **explain.REGIONS,
    **images.REGIONS,
    **speed.REGIONS,
    **words.REGIONS,
}
