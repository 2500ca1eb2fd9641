import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from csr_hf.embedding.images import ImageColumn, is_image, make_thumbnail, open_image

RED = (200, 20, 10)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(picture):
    return np.asarray(picture)[0, 0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "HSV", "YCbCr"])
def test_every_mode_becomes_the_same_rgb(mode):
    made = Image.new("RGB", (8, 6), RED)
    made = made.quantize(4) if mode == "P" else made.convert(mode)
    assert made.mode == mode
    found = open_image(made)
    assert (found.mode, found.size) == ("RGB", (8, 6))
    np.testing.assert_allclose(pixel(found), RED, atol=4)


def test_gray_and_sixteen_bits_keep_their_brightness():
    assert pixel(open_image(Image.new("L", (5, 5), 77))) == [77, 77, 77]
    assert pixel(open_image(Image.new("1", (5, 5), 1))) == [255, 255, 255]
    deep = Image.fromarray(np.full((5, 5), 65535 // 2, np.uint16))
    assert deep.mode == "I;16"
    assert pixel(open_image(Image.fromarray(np.full((5, 5), 255, np.uint16)))) == [1, 1, 1]
    assert pixel(open_image(Image.new("I", (5, 5), 200))) == [200, 200, 200]
    np.testing.assert_allclose(pixel(open_image(encoded(deep))), [127] * 3, atol=1)


def test_what_is_transparent_becomes_white():
    clear = Image.new("RGBA", (5, 5), (*RED, 0))
    assert pixel(open_image(clear)) == [255, 255, 255]
    half = Image.new("LA", (5, 5), (0, 128))
    np.testing.assert_allclose(pixel(open_image(half)), [127] * 3, atol=1)
    palette = Image.new("RGB", (5, 5), RED).quantize(2)
    opaque, clear = encoded(palette), encoded(palette, transparency=palette.getpixel((0, 0)))
    assert pixel(open_image(opaque)) == list(RED)
    assert pixel(open_image(clear)) == [255, 255, 255]


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_few_pixels_are_enlarged(size):
    found = open_image(Image.new("RGB", size, RED))
    assert min(found.size) >= 4
    assert pixel(found) == list(RED)


def test_first_of_several_frames_is_taken():
    frames = [Image.new("RGB", (6, 6), color) for color in (RED, (0, 255, 0))]
    found = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(pixel(found), RED, atol=4)


def test_arrays_of_bytes_floats_and_gray():
    array = np.broadcast_to(np.array(RED, np.uint8), (6, 7, 3))
    assert open_image(array).size == (7, 6)
    for same in (array.astype(np.int64), array / 255.0, np.dstack([array, np.full((6, 7), 255)]).astype(np.uint8)):
        assert pixel(open_image(same)) == list(RED)
    assert pixel(open_image(np.full((5, 5, 1), 9, np.uint8))) == [9, 9, 9]
    assert pixel(open_image(np.ones((5, 5), bool))) == [255, 255, 255]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 8)), r"shape \(3, 8, 8\)"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.full((8, 8, 3), 7.0), "floats outside of 0 to 1"),
        (np.full((8, 8, 3), np.nan), "floats outside of 0 to 1"),
        (np.full((8, 8, 3), 300), "integers outside of 0 to 255"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, said):
    with pytest.raises(ValueError, match=said):
        open_image(array)


def test_broken_and_missing_files_are_named(tmp_path):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.png", "text.jpg", "empty.png", "missing.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image: "):
            open_image(tmp_path / name)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(ValueError, match="the image is dict, not an image"):
        open_image({"pixels": 3})


def test_decompression_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"exceeds limit of 200 pixels"):
        open_image(encoded(Image.new("RGB", (40, 40))))


def test_strings_are_images_only_if_they_name_a_file(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.PNG")
    assert is_image(str(tmp_path / "a.PNG"))
    assert is_image(Path("anything"))
    assert is_image(np.zeros((9, 9)))
    assert not is_image(np.array(["a", "b"])) and not is_image(np.zeros((2, 9, 9, 3)))
    assert not is_image("a.png")
    assert not is_image("a photo of a cat.jpg")
    assert not is_image("a long text " * 500 + ".png")
    assert not is_image("a\0.png")
    assert not is_image(3)


def test_texts_do_without_pillow(monkeypatch):
    for name in ("PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not is_image(["a text"]) and not is_image(3)
    with pytest.raises(ImportError, match=r'images need pillow: pip install "csr_hf\[images\]"'):
        open_image(Path("a.png"))


def test_thumbnails_are_small_jpegs():
    found = Image.open(io.BytesIO(make_thumbnail(Image.new("RGB", (900, 300), RED))))
    assert (found.format, found.size) == ("JPEG", (128, 43))


def test_column_opens_images_when_asked(tmp_path):
    from datasets import Dataset

    Image.new("RGB", (5, 5), RED).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("broken")
    rows = [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": (tmp_path / "a.png").read_bytes(), "path": None},
        {"bytes": None, "path": str(tmp_path / "b.png")},
    ]
    column = ImageColumn(Dataset.from_dict({"picture": rows}), "picture")
    assert len(column) == 3
    assert pixel(column[0]) == pixel(column[1]) == list(RED)
    assert [column.name(row) for row in range(3)] == [str(tmp_path / "a.png"), "1", str(tmp_path / "b.png")]
    same, again, other = column.hashes()
    assert same == again != other
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image.*--skip-bad"):
        column[2]
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match=r"image .*b.png cannot be read"):
        list(column.hashes())
