"""What the regions of the pages hold: for each name a function that reads results files and writes Markdown."""

from collections.abc import Callable

from regions import explain, images, paper_clip, paper_images, paper_text, paper_time, quality, speed, training, words

REGIONS: dict[str, Callable[[], str]] = {
    **quality.REGIONS,
    **training.REGIONS,
    **explain.REGIONS,
    **images.REGIONS,
    **speed.REGIONS,
    **words.REGIONS,
    **paper_text.REGIONS,
    **paper_time.REGIONS,
    **paper_images.REGIONS,
    **paper_clip.REGIONS,
}
