import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from transformers.image_utils import load_image

from csr_hf.embedding.images import (
    ImageColumn,
    is_image,
    make_thumbnail,
    missing_reader,
    names_missing_image,
    open_image,
)

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
    assert pixel(open_image(Image.new("F", (5, 5), 200.0))) == [200, 200, 200]
    assert pixel(open_image(Image.new("F", (5, 5), 0.5))) == [128, 128, 128]
    np.testing.assert_allclose(pixel(open_image(encoded(deep))), [127] * 3, atol=1)


def test_transparency_is_what_transformers_makes_of_it(tmp_path):
    clear = Image.new("RGBA", (5, 5), (*RED, 0))
    assert pixel(open_image(clear)) == [255, 255, 255]
    half = Image.new("LA", (5, 5), (0, 128))
    np.testing.assert_allclose(pixel(open_image(half)), [127] * 3, atol=1)
    palette = Image.new("RGB", (5, 5), RED).quantize(2)
    files = {
        "clear.png": encoded(clear),
        "half.png": encoded(half),
        "opaque.png": encoded(palette),
        "palette.png": encoded(palette, transparency=palette.getpixel((0, 0))),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        expected = np.asarray(load_image(str(tmp_path / name)))
        for same in (tmp_path / name, content, {"bytes": content, "path": None}):
            np.testing.assert_array_equal(np.asarray(open_image(same)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=exif)
    expected = load_image(str(tmp_path / "photo.jpg"))
    assert expected.size == ((90, 60) if orientation < 5 else (60, 90))
    for same in (tmp_path / "photo.jpg", (tmp_path / "photo.jpg").read_bytes()):
        found = open_image(same)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    cell = {"bytes": None, "path": str(tmp_path / "photo.jpg")}
    assert Image.open(io.BytesIO(make_thumbnail(cell, 30))).size == ((30, 20) if orientation < 5 else (20, 30))


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
    opaque = np.dstack([array, np.full((6, 7), 255)]).astype(np.uint8)
    for same in (array.astype(np.int64), array / 255.0, array.astype(float), opaque, array.transpose(2, 0, 1)):
        assert pixel(open_image(same)) == list(RED)
    for same in (torch.tensor(array.copy()), torch.tensor(array.copy()).permute(2, 0, 1).bfloat16()):
        assert pixel(open_image(same)) == list(RED)
    # Nearly black bytes are no floats from 0 to 1.
    assert pixel(open_image(torch.ones(3, 6, 7, dtype=torch.uint8))) == [1, 1, 1]
    assert pixel(open_image(np.full((5, 5, 1), 9, np.uint8))) == [9, 9, 9]
    assert pixel(open_image(np.ones((5, 5), bool))) == [255, 255, 255]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 8, 8)), r"shape \(2, 8, 8\)"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.full((8, 8, 3), -0.5), "values outside of 0 to 255"),
        (np.full((8, 8, 3), np.nan), "values outside of 0 to 255"),
        (np.full((8, 8, 3), 300), "values outside of 0 to 255"),
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


def test_damaged_data_urls_and_formats_without_a_reader_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="data:image/png;base64,AAAA cannot be read as an image"):
        open_image("data:image/png;base64,AAAA")
    monkeypatch.setattr("csr_hf.embedding.images.missing_reader", lambda suffix: f"pip install {suffix[1:]}-reader")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for same in (tmp_path / "a.heic", (tmp_path / "a.heic").read_bytes()):
        with pytest.raises(ValueError, match=r"does not know its format. Install a reader: pip install heic-reader"):
            open_image(same)


def test_heic_is_read_where_its_reader_is_installed(tmp_path):
    if missing_reader(".HEIC") is not None:
        assert missing_reader(".HEIC") == "pip install pillow-heif"
        pytest.skip("needs pillow-heif")
    import pillow_heif

    pillow_heif.from_pillow(Image.new("RGB", (64, 48), RED)).save(tmp_path / "a.heic")
    for same in (tmp_path / "a.heic", (tmp_path / "a.heic").read_bytes()):
        found = open_image(same)
        assert found.size == (64, 48)
        np.testing.assert_allclose(pixel(found), RED, atol=4)


def test_avif_is_read(tmp_path):
    assert missing_reader(".avif") is None and missing_reader(".jpg") is None
    Image.new("RGB", (64, 48), RED).save(tmp_path / "a.avif")
    np.testing.assert_allclose(pixel(open_image(tmp_path / "a.avif")), RED, atol=4)


def test_decompression_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"exceeds limit of 200 pixels"):
        open_image(encoded(Image.new("RGB", (40, 40))))


def test_strings_are_images_only_if_they_name_a_file(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.PNG")
    assert is_image(str(tmp_path / "a.PNG"))
    assert is_image(Path("anything")) and is_image(b"anything") and is_image("data:image/png;base64,")
    assert is_image(torch.zeros(3, 9, 9)) and not is_image(torch.zeros(9))
    assert is_image(np.zeros((9, 9)))
    assert not is_image(np.array(["a", "b"])) and not is_image(np.zeros((2, 9, 9, 3)))
    assert not is_image("a.png")
    assert not is_image("a photo of a cat.jpg")
    assert not is_image("a long text " * 500 + ".png")
    assert not is_image("a\0.png")
    assert not is_image(3)


def test_paths_of_missing_images_are_told_from_words(tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    for path in ("photo.jpg", "./photo.JPG", "my photos/a cat.heic", str(tmp_path / "b.png")):
        assert names_missing_image(path)
    for text in ("a photo of photo.jpg", "how do I read a.png", "photo", "", str(tmp_path / "a.png")):
        assert not names_missing_image(text)


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
