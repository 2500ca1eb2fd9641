"""Backbones that take images: CLIP, SigLIP, ViT, timm."""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image

from csr_hf import load_backbone
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.embedding import images
from csr_hf.embedding.cache import embed_dataset
from tests.helpers.clip import picture


def test_clip_is_normalized_and_knows_its_modalities(clip, backbone):
    assert (clip.modalities, backbone.modalities, clip.dim) == (("image", "text"), ("text",), 24)
    rows = clip.embed([picture(0), "a text", picture(1)])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_mixed_inputs_go_each_to_its_tower(clip, photos):
    array, path = np.asarray(picture(2)), photos / "003.png"
    rows = clip.embed(["a text", picture(1), array, path, str(path), "003.png"])
    images = clip.model.encode([picture(1), picture(2), picture(3)])
    np.testing.assert_allclose(rows[[1, 2, 3]], images, atol=1e-6)
    np.testing.assert_allclose(rows[4], rows[3])
    np.testing.assert_allclose(rows[[0, 5]], clip.model.encode(["a text", "003.png"]), atol=1e-6)


def test_embeddings_of_images_are_those_of_sentence_transformers(clip, tmp_path):
    colors = np.asarray(picture(3, 40)).copy()
    colors[:, :10] = [250, 10, 10]
    image = Image.fromarray(colors)
    clear = image.copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))))
    modes = [image.convert(mode) for mode in ("RGB", "L", "1", "CMYK", "HSV", "YCbCr", "I", "F")]
    modes += [image.quantize(8), clear, clear.convert("LA"), clear.convert("PA")]
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "lying.jpg", exif=exif)
    for name in ("a.jpg", "a.gif", "a.webp", "a.bmp", "a.tiff"):
        image.save(tmp_path / name)
    clear.save(tmp_path / "clear.png")
    clear.quantize(8).save(tmp_path / "palette.png")
    names = ("lying.jpg", "a.jpg", "a.gif", "a.webp", "a.bmp", "a.tiff", "clear.png", "palette.png")
    files = [str(tmp_path / name) for name in names]
    urls = ["data:image/png;base64," + base64.b64encode((tmp_path / "clear.png").read_bytes()).decode()]
    arrays = [colors, colors.transpose(2, 0, 1), colors.astype(np.int64), np.asarray(clear), colors[..., :1]]
    floats = [colors.astype(np.float32), colors / 255, (colors / 255).transpose(2, 0, 1).astype(np.float32)]
    tensors = [torch.tensor(colors), torch.tensor(colors).permute(2, 0, 1), torch.tensor(colors / 255)]
    for value in [*modes, *files, *urls, *arrays, *floats, *tensors]:
        found, expected = clip.embed([value])[0], clip.model.encode([value])[0]
        assert found @ expected > 0.9999, value
    same = clip.embed([files[0], (tmp_path / "lying.jpg").read_bytes(), tmp_path / "lying.jpg"])
    np.testing.assert_allclose(same[1:], same[[0, 0]], atol=1e-6)
    # Without the EXIF orientation it is another picture.
    assert same[0] @ clip.embed([image])[0] < 0.999


def test_floats_that_a_processor_divides_once_more_are_told(clip, caplog):
    images._warn_of_unit_floats.cache_clear()
    clip.embed([np.asarray(picture(3)) / 255, np.asarray(picture(4)) / 255])
    assert [record.message for record in caplog.records if "divide by 255 once more. Give" in record.message]


def test_what_a_backbone_cannot_embed_is_named(clip, backbone, tmp_path):
    with pytest.raises(ValueError, match=r"inputs\[1\] is an image, and .* embeds text alone. Use a CLIP model"):
        backbone.embed(["a text", picture(0)])
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match=r"broken.png cannot be read as an image"):
        clip.embed([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match=r"inputs\[0\] is int, neither a string nor an image"):
        clip.embed([3])


def test_a_text_that_is_an_address_is_embedded_not_fetched(clip):
    texts = ["http://localhost:9/a.png", "red", "https://localhost:9/b.jpg"]
    rows = clip.embed(texts, task="document")
    # Sentence-transformers takes these for texts.
    expected = clip.model.encode([{"text": text} for text in texts])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_image_only_backbone(tmp_path):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    vit = load_backbone(str(tmp_path), device="cpu")
    assert (vit.modalities, vit.dim) == (("image",), 32)
    rows = vit.embed([picture(0), np.asarray(picture(1))])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"inputs\[0\] \('a text'\) names no image file"):
        vit.embed(["a text"])


def test_timm_backbone(tmp_path):
    pytest.importorskip("torchvision", reason="timm reads its images with torchvision")
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    net = timm.create_model("resnet10t", pretrained=False).eval()
    # The files of a timm model on the Hub.
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    described = {"architecture": "resnet10t", "num_classes": 1000, "num_features": net.num_features}
    described["pretrained_cfg"] = net.pretrained_cfg
    (tmp_path / "config.json").write_text(json.dumps(described))
    model = load_backbone(str(tmp_path), device="cpu")
    assert (model.modalities, model.dim) == (("image",), net.num_features)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    with torch.inference_mode():
        features = net.forward_features(torch.stack([transform(picture(0)), transform(picture(1))]))
        expected = torch.nn.functional.normalize(net.forward_head(features, pre_logits=True)).numpy()
    np.testing.assert_allclose(model.embed([picture(0), picture(1)]), expected, atol=1e-5)


def test_clip_that_sentence_transformers_saved(clip, tmp_path):
    clip.model.save(str(tmp_path / "saved"))
    again = load_backbone(str(tmp_path / "saved"), device="cpu")
    assert again.fingerprint == clip.fingerprint
    inputs = ["a text", picture(0)]
    np.testing.assert_array_equal(again.embed(inputs), clip.embed(inputs))


def test_fingerprint_follows_the_image_processor(clip, monkeypatch):
    before = clip.fingerprint
    monkeypatch.setattr(clip.model[0].processor.image_processor, "image_mean", [0.1, 0.2, 0.3])
    assert clip.fingerprint != before


def test_siglip(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
        SiglipProcessor,
    )

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "stripes": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **ends)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    places = {"vocab_size": 4, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = SiglipConfig(text_config={**size, **places}, vision_config={**size, "image_size": 32, "patch_size": 8})
    SiglipModel(config).save_pretrained(tmp_path)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(tmp_path)
    siglip = load_backbone(str(tmp_path), device="cpu")
    assert (siglip.modalities, siglip.dim) == (("image", "text"), 32)
    rows = siglip.embed(["red stripes", picture(0), "red"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_images_are_embedded_once_and_opened_one_by_one(clip, photos, tmp_path):
    (data,) = load_sources(DataArguments(source=str(photos)))
    cache = embed_dataset(data.inputs("image"), clip, tmp_path, dtype="float32")
    np.testing.assert_allclose(cache.to_numpy()[5], clip.embed([picture(5)])[0], atol=1e-6)
    again = embed_dataset(data.inputs("image"), clip, tmp_path, dtype="float32")
    assert again.reused and again.folder == cache.folder
