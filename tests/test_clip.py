"""Images and texts through one head: encoder, data, a run, a search, the doors of sentence-transformers, mteb."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from csr_hf import CSRConfig, CSREncoder, CSRModel, load_backbone
from csr_hf.cli.main import main
from csr_hf.codes import encode_embeddings
from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from csr_hf.embedding.cache import embed_dataset
from csr_hf.evaluation.results import Results
from csr_hf.publishing.export import export
from csr_hf.publishing.sentence_transformers import native_name, write_head
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.searcher import RunSearcher
from tests.helpers.clip import caption, picture, save_clip

PAIRS = 150
SMALL = [
    "--model.hidden_dim=96",
    "--model.k=8",
    "--training.max_steps=40",
    "--training.per_device_train_batch_size=32",
]
SMALL += ["--evaluation.ks=[8]", "--no-progress", "--data.held_out=0.3"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_backbone(str(save_clip(tmp_path_factory.mktemp("clip") / "clip")), device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images with captions."""
    folder = tmp_path_factory.mktemp("photos")
    lines = ["file_name,text"]
    for number in range(PAIRS):
        picture(number).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{caption(number)}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run_folder(clip, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    call = ["run", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(folder), *SMALL]
    assert main(call) == 0
    return folder


@pytest.fixture
def encoder(clip):
    torch.manual_seed(0)
    config = CSRConfig(input_dim=clip.dim, hidden_dim=96, k=8, modalities=["image", "text"])
    head = CSRModel(config)
    head.modality_bias.normal_(std=0.1)
    return CSREncoder(clip, head)


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


def test_what_a_backbone_cannot_embed_is_named(clip, backbone, tmp_path):
    with pytest.raises(TypeError, match=r"inputs\[1\] is an image, and .* embeds text alone. Use a CLIP model"):
        backbone.embed(["a text", picture(0)])
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match=r"broken.png cannot be read as an image"):
        clip.embed([tmp_path / "broken.png"])
    with pytest.raises(TypeError, match=r"inputs\[0\] is int, neither a string nor an image"):
        clip.embed([3])


def test_image_only_backbone(tmp_path):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    vit = load_backbone(str(tmp_path), device="cpu")
    assert (vit.modalities, vit.dim) == (("image",), 32)
    rows = vit.embed([picture(0), np.asarray(picture(1))])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    with pytest.raises(TypeError, match=r"inputs\[0\] \('a text'\) names no image file"):
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


def test_codes_are_those_of_centered_embeddings(encoder):
    inputs = [picture(0), "a text", picture(1)]
    codes, dense = encoder.encode(inputs), encoder.embed(inputs)
    bias = encoder.head.modality_bias.numpy()
    for row, modality in enumerate((0, 1, 0)):
        expected = encode_embeddings(encoder.head, dense[row : row + 1] - bias[modality])
        np.testing.assert_array_equal(codes.indices[row], expected.indices[0])
        np.testing.assert_allclose(codes.values[row], expected.values[0], atol=1e-6)
    batch = np.stack([np.asarray(picture(number)) for number in range(3)])
    np.testing.assert_array_equal(encoder.encode(batch).indices[[0, 1]], codes.indices[[0, 2]])
    assert len(encoder.encode(np.array(["a text", "another"]))) == 2
    assert len(encoder.encode([])) == 0
    assert len(encoder.encode(picture(0))) == len(encoder.encode_query("a text")) == 1


def test_head_of_two_modalities_wants_to_know_which(encoder, tmp_path):
    rows = torch.zeros(1, 24)
    with pytest.raises(ValueError, match=r"`modality` \('audio'\) is not one of this head's: image, text"):
        encoder.head.subtract_modality_mean(rows, "audio")
    assert torch.equal(encoder.head.subtract_modality_mean(rows, "text"), -encoder.head.modality_bias[1:])
    encoder.head.save_pretrained(tmp_path)
    again = CSRModel.from_pretrained(tmp_path)
    assert again.config.modalities == ["image", "text"]
    assert torch.equal(again.modality_bias, encoder.head.modality_bias)
    before = encoder.fingerprint
    encoder.head.modality_bias += 0.1
    assert encoder.fingerprint != before
    with pytest.raises(ValueError, match="several different ones"):
        CSRConfig(modalities=["text", "text"])


def test_folder_of_images_is_read_with_its_captions(photos):
    (data,) = load_sources(DataArguments(source=str(photos), held_out=0.3))
    assert (data.roles, data.document_role, data.query_role, len(data)) == (("image", "text"), "image", "text", PAIRS)
    assert data.rows["text"][7] == caption(7)
    assert data.inputs("image")[7].tobytes() == picture(7).tobytes()
    assert data.rows["id"][7].endswith("007.png")
    assert 0.15 < data.held_out.mean() < 0.45


def test_other_files_in_a_folder_of_images_are_passed_over(tmp_path):
    for split in ("", "train", "test"):
        (tmp_path / split).mkdir(exist_ok=True)
        picture(len(split)).save(tmp_path / split / "a.png")
    (tmp_path / "training_log.jsonl").write_text("{}")
    assert len(load_sources(DataArguments(source=str(tmp_path), split="test"))[0]) == 1
    assert len(load_sources(DataArguments(source=str(tmp_path), split="validation"))[0]) == 3


def test_shards_of_webdataset_and_encoded_columns(photos, tmp_path):
    import tarfile

    from datasets import Dataset

    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for number in range(5):
            (tmp_path / f"{number}.txt").write_text(caption(number))
            shard.add(photos / f"{number:03}.png", f"{number}.png")
            shard.add(tmp_path / f"{number}.txt", f"{number}.txt")
    cells = [{"bytes": (photos / f"{number:03}.png").read_bytes(), "path": None} for number in range(5)]
    Dataset.from_dict({"picture": cells, "name": [caption(n) for n in range(5)]}).to_parquet(tmp_path / "rows.parquet")
    columns = {"image": "picture", "text": "name"}
    for arguments in ({"source": "shard.tar"}, {"source": "rows.parquet", "columns": columns}):
        arguments["source"] = str(tmp_path / arguments["source"])
        (data,) = load_sources(DataArguments(**arguments))
        assert data.roles == ("image", "text")
        assert list(data.rows["text"]) == [caption(number) for number in range(5)]
        assert data.inputs("image")[4].tobytes() == picture(4).tobytes()
    (streamed,) = load_sources(DataArguments(source=str(tmp_path / "shard.tar"), streaming=True, limit=3))
    assert streamed.roles == ("image", "text") and len(streamed) == 3
    with pytest.raises(ValueError, match=r"image number 0: .* cannot be read: .*No such file"):
        load_sources(DataArguments(source=str(tmp_path / "rows.parquet"), columns={"image": "name"}))
    Dataset.from_dict({"image": [1.5]}).to_parquet(tmp_path / "floats.parquet")
    with pytest.raises(ValueError, match=r"column 'image' holds .*float64.*, not images"):
        load_sources(DataArguments(source=str(tmp_path / "floats.parquet")))


def test_broken_images_end_the_run_or_are_skipped_and_named(clip, tmp_path, capsys):
    for number in range(30):
        picture(number).save(tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_text("broken")
    (tmp_path / "07.png").write_bytes((tmp_path / "08.png").read_bytes()[:60])
    call = ["embed", "--corpus", str(tmp_path), "--backbone", clip.name, "--output-dir", str(tmp_path / "out")]
    assert main([*call, "--no-progress"]) == 2
    assert re.search(r"05.png cannot be read as an image.*--skip-bad", capsys.readouterr().err)
    assert main([*call, "--no-progress", "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"skipped +2 images that cannot be opened: .*05.png, .*07.png", said)
    assert "28 rows of image" in said


def test_images_are_embedded_once_and_opened_one_by_one(clip, photos, tmp_path):
    (data,) = load_sources(DataArguments(source=str(photos)))
    cache = embed_dataset(data.inputs("image"), clip, tmp_path, dtype="float32", progress=False)
    np.testing.assert_allclose(cache.to_numpy()[5], clip.embed([picture(5)])[0], atol=1e-6)
    again = embed_dataset(data.inputs("image"), clip, tmp_path, dtype="float32", progress=False)
    assert again.reused and again.folder == cache.folder


def test_run_measures_both_directions_and_names_what_is_dead(run_folder, capsys):
    results = Results.load(run_folder)
    tasks = {row.task.rpartition(", ")[2] for row in results.rows}
    assert tasks == {"text to image", "image to text"}
    assert {row.metric for row in results.rows} == {"R@1", "R@5", "R@10"}
    assert {row.method for row in results.rows} >= {"dense", "CSR", "CSR, decoded", "CSR + int8", "int8", "PCA"}
    figures = RunRecipe.recorded(run_folder / "recipe.yaml", "results")
    assert {"dead_fraction_image", "dead_fraction_text"} <= figures.keys()
    head = CSRModel.from_pretrained(run_folder / "model")
    assert head.config.modalities == ["image", "text"]
    assert head.modality_last_nonzero.shape == (2, 96)
    assert (run_folder / "retention.png").is_file()
    assert main(["info", str(run_folder)]) == 0
    assert "24 -> 96 latents of image and text, k 8" in capsys.readouterr().out


def test_bias_of_a_modality_is_the_mean_of_what_is_trained_on(run_folder, clip, photos):
    (data,) = load_sources(DataArguments(source=str(photos), held_out=0.3))
    rows = np.flatnonzero(~data.held_out)
    head = CSRModel.from_pretrained(run_folder / "model")
    for number, role in enumerate(("image", "text")):
        inputs = data.inputs(role)
        expected = clip.embed([inputs[int(row)] for row in rows]).mean(0)
        np.testing.assert_allclose(head.modality_bias[number].numpy(), expected, atol=2e-4)


def test_head_of_two_modalities_serves_images_without_captions(run_folder, photos, tmp_path, capsys):
    """It is adapted to them, measured by neighbors, and indexes them as it would with captions."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(80):
        picture(number).save(folder / f"{number:03}.png")
    shared = ["--corpus", str(folder), "--head", str(run_folder), "--no-progress"]
    call = ["run", *shared, "--output-dir", str(tmp_path / "more"), "--training.max_steps=3", "--data.held_out=0.4"]
    assert main([*call, "--evaluation.ks=[8]", "--training.per_device_train_batch_size=16"]) == 0
    assert {row.metric for row in Results.load(tmp_path / "more").rows} == {"dense top 10"}
    head = CSRModel.from_pretrained(tmp_path / "more" / "model")
    before = CSRModel.from_pretrained(run_folder / "model")
    assert torch.equal(head.modality_bias, before.modality_bias)
    # Images alone were seen.
    assert head.modality_last_nonzero[1].max() == 0
    capsys.readouterr()
    assert main(["index", *shared, "--output-dir", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), str(folder / "007.png"), "--top-k", "1"]) == 0
    assert re.search(r"1\. (0\.99\d|1\.000) .*007\.png", capsys.readouterr().out)


def test_search_finds_images_by_text_and_by_image(run_folder, photos, tmp_path, capsys):
    page = tmp_path / "out.html"
    asked = str(photos / "012.png")
    assert main(["search", str(run_folder), asked, "red stripes", "--html", str(page)]) == 0
    said = capsys.readouterr().out
    first = next(line for line in said.splitlines() if " 1. " in line)
    assert first.endswith("012.png")
    content = page.read_text()
    assert content.count("data:image/jpeg;base64,") == 11
    assert "red stripes" in content and caption(12) in content
    assert (photos / "012.png").resolve().as_uri() in content


def test_images_without_a_file_keep_a_thumbnail(clip, photos, tmp_path):
    from datasets import Dataset, load_from_disk

    cells = [{"bytes": (photos / f"{number:03}.png").read_bytes(), "path": None} for number in range(30)]
    Dataset.from_dict({"image": cells}).save_to_disk(tmp_path / "rows")
    assert len(load_from_disk(tmp_path / "rows")) == 30
    (data,) = load_sources(DataArguments(source=str(tmp_path / "rows")))
    shown = data.show_documents()
    assert shown.column_names == ["id", "text", "thumbnail"]
    with Image.open(io.BytesIO(shown["thumbnail"][3])) as found:
        assert found.size == (20, 20)


def test_folders_of_classes_give_labels_by_name(tmp_path):
    for number in range(24):
        (tmp_path / ("even", "odd")[number % 2]).mkdir(exist_ok=True)
        picture(number).save(tmp_path / ("even", "odd")[number % 2] / f"{number:02}.png")
    (data,) = load_sources(DataArguments(source=str(tmp_path)))
    assert data.roles == ("image",)
    assert sorted(data.labels.tolist()) == [0] * 12 + [1] * 12
    shown = data.show_documents()
    assert {name.split("/")[-2]: text for name, text in zip(shown["id"], shown["text"], strict=True)} == {
        "even": "even", "odd": "odd"
    }  # fmt: skip


def test_sentence_transformers_routes_both_modalities(run_folder, photos, tmp_path):
    """Without csr_hf's code: the exported modules are stock ones."""
    from sentence_transformers import SparseEncoder

    export(run_folder, tmp_path / "out", layout="full", device="cpu")
    assert (
        "encode `model.subtract_modality_mean(embeddings, modality)`" in (tmp_path / "out" / "README.md").read_text()
    )
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu")
    assert set(stock.modalities) == {"image", "text"}
    own = CSREncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert own.backbone.source.endswith("itself")
    pictures, texts = [picture(number) for number in range(4)], [caption(number) for number in range(3)]
    for inputs in (pictures, texts):
        expected = own.encode(inputs).normalize().to_torch().to_dense()
        torch.testing.assert_close(stock.encode(inputs).to_dense(), expected, atol=1e-5, rtol=0)
    run = CSREncoder.from_pretrained(run_folder / "model", device="cpu")
    np.testing.assert_allclose(run.encode(pictures).values, own.encode(pictures).values, atol=1e-5)


def test_head_alone_is_a_router_of_sentence_transformers(run_folder, tmp_path):
    """As the card puts it together with a backbone that does not normalize."""
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Normalize

    own = CSREncoder.from_pretrained(run_folder / "model", device="cpu")
    write_head(own.head, tmp_path / "head")
    backbone = SentenceTransformer(own.backbone.name, device="cpu")
    head = Router.load(str(tmp_path / "head"), native_name(own.head))
    stock = SparseEncoder(modules=[*backbone.children(), Normalize(), head, Normalize()], device="cpu")
    for inputs in ([picture(3), picture(4)], [caption(3)]):
        expected = own.encode(inputs).normalize().to_torch().to_dense()
        torch.testing.assert_close(stock.encode(inputs).to_dense(), expected, atol=1e-5, rtol=0)


def test_images_beside_precomputed_embeddings_are_refused(clip, photos, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ones((30, 24), np.float32))
    sources = f"[{{source: {photos}}}, {{source: {tmp_path / 'rows.npy'}}}]"
    call = ["embed", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(tmp_path / "run")]
    assert main([*call, "--data.sources", sources, "--no-progress"]) == 2
    assert "images beside precomputed embeddings" in capsys.readouterr().err


def test_texts_and_images_without_pairs_are_one_index(clip, photos, tmp_path):
    for number in range(40):
        picture(number).save(tmp_path / f"{number:03}.png")
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(f"text {number}" for number in range(40)))
    sources = f"[{{source: {tmp_path}}}, {{source: {tmp_path / 'texts.csv'}}}]"
    call = ["run", "--corpus", "x", "--backbone", clip.name, "--output-dir", str(tmp_path / "run"), *SMALL]
    assert main([*call, "--data.sources", sources, "--data.held_out=0.5", "--training.max_steps=3"]) == 0
    assert {row.metric for row in Results.load(tmp_path / "run").rows} == {"dense top 10"}
    (task,) = {row.task for row in Results.load(tmp_path / "run").rows}
    assert re.search(r"held-out rows among \d+$", task)
    documents = RunSearcher.load(tmp_path / "run", device="cpu").documents
    assert len(documents) == 80 and documents[79]["thumbnail"] is None


def test_shared_bias_is_what_the_recipe_says(clip, photos, tmp_path):
    call = ["run", "--corpus", str(photos), "--backbone", clip.name, "--output-dir", str(tmp_path / "run"), *SMALL]
    assert main([*call, "--model.modality_bias=false", "--training.max_steps=2"]) == 0
    head = CSRModel.from_pretrained(tmp_path / "run" / "model")
    assert head.config.modalities == ["image", "text"]
    assert not head.modality_bias.any()


def test_image_tasks_of_mteb(encoder, tmp_path):
    import mteb
    from mteb.mocks import MOCK_MIEB_TASK_GRID

    from csr_hf.evaluation.mteb import MTEBEncoder

    model = MTEBEncoder.from_head(encoder.backbone, encoder.head, tmp_path)
    assert model.mteb_model_meta.modalities == ["text", "image"]
    passed = []
    for task in MOCK_MIEB_TASK_GRID:
        if "VisionCentricQA" in task.metadata.name:
            with pytest.raises(TypeError, match="a tower for each of them, none for both"):
                mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
            continue
        found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
        passed += [result.task_name for result in found.task_results]
    assert len(passed) == 13
