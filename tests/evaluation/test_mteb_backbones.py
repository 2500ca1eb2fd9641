"""Scores of the dense model are those of mteb itself, whatever similarity, prompts and towers a backbone has."""

import math

import numpy as np
import pytest
from mteb._create_dataloaders import _create_dataloader_from_texts
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer, SparseEncoder

from csr_hf import load_backbone
from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.csr_methods import CodesMatrix, CSRMethod
from csr_hf.evaluation.mteb import MTEBEncoder, model_meta
from csr_hf.evaluation.vector_method import DenseMethod
from csr_hf.publishing.sentence_transformers import write_full
from tests.conftest import make_head
from tests.helpers.backbones import KINDS
from tests.helpers.mteb_tasks import TEXT_TASKS, by_name, scores_of

TASKS = by_name(TEXT_TASKS)
OFTEN = ["MockSTSTask", "MockRetrievalTask", "MockRerankingTask", "MockPairClassificationTask"]
BY_TASK = {
    "STS": "Say how alike: ",
    "Retrieval-query": "Find: ",
    "Retrieval-document": "Found: ",
    "Reranking": "Rank: ",
    "Classification": "Name the class: ",
    "query": "query: ",
}


def dense_of(backbone, folder):
    return MTEBEncoder(CachedBackbone(backbone, folder), DenseMethod(backbone.dim, backbone.similarity_fn_name))


def rows_of(model, task, prompt_type, texts):
    prompt_type = None if prompt_type is None else PromptType(prompt_type)
    inputs, metadata = _create_dataloader_from_texts(texts), TASKS[task].metadata
    rows = model.encode(inputs, task_metadata=metadata, hf_split="", hf_subset="", prompt_type=prompt_type)
    return np.asarray(rows)


def check_rows(encoder, model, texts):
    """Embeddings and similarities equal those of mteb's own wrapper."""
    expected = SentenceTransformerEncoderWrapper(model)
    found = {}
    for task, prompt_type in (
        ("MockSTSTask", None),
        ("MockRetrievalTask", "query"),
        ("MockRetrievalTask", "document"),
        ("MockRerankingTask", "query"),
        ("MockClassificationTask", None),
    ):
        found[prompt_type] = rows_of(encoder, task, prompt_type, texts)
        np.testing.assert_allclose(found[prompt_type], rows_of(expected, task, prompt_type, texts), atol=1e-6)
    asked, answers = found["query"], found["document"]
    np.testing.assert_allclose(encoder.similarity(asked, answers), expected.similarity(asked, answers), atol=1e-6)
    pairs = encoder.similarity_pairwise(asked, answers)
    np.testing.assert_allclose(pairs, expected.similarity_pairwise(asked, answers), atol=1e-6)


def check_equal(found, expected):
    assert found.keys() == expected.keys()
    assert len(found) > 0
    for name, score in found.items():
        both_missing = math.isnan(score) and math.isnan(expected[name])
        assert both_missing or math.isclose(score, expected[name], abs_tol=1e-6), name


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in sorted(TASKS)]
)
def test_dot_product_scores_are_those_of_mteb(tiny_folder, tmp_path_factory, name):
    folder = str(tiny_folder("dot"))
    backbone = load_backbone(folder, device="cpu")
    found = scores_of(dense_of(backbone, tmp_path_factory.mktemp("embeddings")), TASKS[name])
    check_equal(found, scores_of(SentenceTransformer(folder, device="cpu"), TASKS[name]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["dot", "router", "e5", "instructed", "decoder", "static", "matryoshka"])
def test_towers_and_prompts_are_those_that_mteb_uses(tiny_folder, tmp_path, kind):
    folder = str(tiny_folder(kind))
    backbone = load_backbone(folder, device="cpu")
    check_rows(dense_of(backbone, tmp_path), SentenceTransformer(folder, device="cpu"), KINDS[kind].sentences(5))


def test_scores_of_two_towers_are_those_of_mteb(tiny_folder, tmp_path):
    backbone = load_backbone(str(tiny_folder("router")), device="cpu")
    model = SentenceTransformer(str(tiny_folder("router")), device="cpu")
    found = scores_of(dense_of(backbone, tmp_path), TASKS["MockRetrievalTask"])
    check_equal(found, scores_of(model, TASKS["MockRetrievalTask"]))


def test_prompts_by_task_come_before_those_of_queries_and_documents(tiny_folder, tmp_path):
    model = SentenceTransformer(str(tiny_folder("bert")), prompts=BY_TASK, device="cpu")
    model.save(str(tmp_path / "model"), create_model_card=False)
    encoder = dense_of(load_backbone(str(tmp_path / "model"), device="cpu"), tmp_path / "cache")
    check_rows(encoder, model, ["a cat", "two dogs"])
    for task, prompt_type, prompt in (
        ("MockSTSTask", None, "Say how alike: "),
        ("MockRetrievalTask", "query", "Find: "),
        ("MockRetrievalTask", "document", "Found: "),
        ("MockRerankingTask", "document", "Rank: "),
        ("MockClusteringTask", None, ""),
        ("MockBitextMiningTask", "query", "query: "),
    ):
        expected = model.encode([prompt + "a cat"], prompt="")
        np.testing.assert_allclose(rows_of(encoder, task, prompt_type, ["a cat"]), expected, atol=1e-6, err_msg=task)


def test_instructions_by_task_are_those_of_mteb(tiny_folder, tmp_path):
    folder, texts, template = str(tiny_folder("bert")), KINDS["bert"].sentences(5), "Instruct: {instruction}\nQuery: "
    backbone = load_backbone(folder, device="cpu")
    plain = MTEBEncoder(CachedBackbone(backbone, tmp_path), DenseMethod(backbone.dim))
    cached = CachedBackbone(backbone, tmp_path, instruction_template=template)
    encoder = MTEBEncoder(cached, DenseMethod(backbone.dim))
    expected = InstructSentenceTransformerModel(
        folder, "", device="cpu", instruction_template=template, apply_instruction_to_passages=False
    )
    for task, prompt_type in (
        ("MockSTSTask", None),
        ("MockRetrievalTask", "query"),
        ("MockRetrievalTask", "document"),
        ("MockClassificationTask", None),
    ):
        found = rows_of(encoder, task, prompt_type, texts)
        np.testing.assert_allclose(found, rows_of(expected, task, prompt_type, texts), atol=1e-6, err_msg=task)
        same = np.allclose(found, rows_of(plain, task, prompt_type, texts), atol=1e-6)
        assert same == (prompt_type == "document"), task
    assert encoder.mteb_model_meta.experiment_name != plain.mteb_model_meta.experiment_name


def test_settings_of_the_user_are_those_that_are_measured(tiny_folder, tmp_path):
    """mteb's own wrapper of a model that is set up alike gives the same rows and similarities."""
    folder, texts = str(tiny_folder("bert")), KINDS["bert"].sentences(5)
    prompts = {"query": "ask: ", "document": "tell: "}
    backbone = load_backbone(folder, device="cpu", prompts=prompts, max_seq_length=12, similarity="dot")
    model = SentenceTransformer(folder, device="cpu", prompts=prompts, similarity_fn_name="dot")
    model.max_seq_length = 12
    check_rows(dense_of(backbone, tmp_path), model, texts)
    plain = dense_of(load_backbone(folder, device="cpu"), tmp_path)
    for prompt_type in (None, "query", "document"):
        found, others = (
            rows_of(one, "MockRetrievalTask", prompt_type, texts) for one in (dense_of(backbone, tmp_path), plain)
        )
        assert np.abs(found - others).max() > 0.01


def test_results_of_other_settings_have_another_place(tiny_folder, tmp_path):
    folder = str(tiny_folder("bert"))
    settings = [{}, {"prompts": {"query": "ask: "}}, {"max_seq_length": 12}, {"similarity": "dot"}]
    places = set()
    for chosen in settings:
        backbone = load_backbone(folder, device="cpu", **chosen)
        for similarity in {"cosine", backbone.similarity_fn_name}:
            meta = model_meta(CachedBackbone(backbone, tmp_path), DenseMethod(backbone.dim, similarity))
            assert meta.similarity_fn_name.value == similarity
            places.add((meta.revision, meta.experiment_name))
    assert len(places) == 5


def test_codes_are_compared_by_dot_product_where_the_backbone_is(tiny_folder, tmp_path):
    backbone = load_backbone(str(tiny_folder("dot")), device="cpu")
    head = make_head(input_dim=backbone.dim, hidden_dim=64, k=8)
    by_dot, by_cosine = (
        MTEBEncoder(CachedBackbone(backbone, tmp_path), CSRMethod(head, 8, similarity=name))
        for name in ("dot", "cosine")
    )
    task = TASKS["MockSTSTask"].metadata
    codes = by_dot.encode([{"text": ["a cat", "two dogs", "no"]}], task_metadata=task, hf_split="", hf_subset="")
    dense = np.asarray(codes)
    assert isinstance(codes, CodesMatrix)
    np.testing.assert_allclose(by_dot.similarity(codes, codes), dense @ dense.T, rtol=1e-5)
    np.testing.assert_allclose(by_dot.similarity_pairwise(codes, codes), (dense**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(by_cosine.similarity_pairwise(codes, codes), np.ones(3), rtol=1e-5)
    assert len(scores_of(by_dot, TASKS["MockRetrievalTask"])) > 0


def test_published_codes_have_the_same_scores(tiny_folder, tmp_path):
    """What others load with sentence-transformers alone compares codes by dot product too."""
    backbone = load_backbone(str(tiny_folder("dot")), device="cpu")
    head = make_head(input_dim=backbone.dim, hidden_dim=64, k=8)
    (tmp_path / "full").mkdir()
    write_full(backbone, head, tmp_path / "full")
    stock = SparseEncoder(str(tmp_path / "full"), device="cpu")
    own, texts = MTEBEncoder.from_head(backbone, head, tmp_path / "embeddings"), KINDS["dot"].sentences(5)
    codes = rows_of(own, "MockPairClassificationTask", None, texts)
    expected = stock.encode(texts, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(codes, expected, rtol=2e-3, atol=1e-3)
    products = stock.similarity(expected, expected)
    np.testing.assert_allclose(own.similarity(codes, codes), products, rtol=5e-3, atol=1e-2)
    task = TASKS["MockRetrievalTask"]
    found, reference = scores_of(own, task), scores_of(stock, task)
    assert all(found[key] == pytest.approx(score, abs=1e-3) for key, score in reference.items() if "main" in key[-1])


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_distances_are_those_of_sentence_transformers(tiny_folder, tmp_path, similarity):
    """mteb's own wrapper has no pairwise distances, so retrieval and reranking are what can be compared with it."""
    folder = str(tiny_folder("dense"))
    backbone = load_backbone(folder, device="cpu", similarity=similarity)
    model = SentenceTransformer(folder, device="cpu", similarity_fn_name=similarity)
    encoder = dense_of(backbone, tmp_path)
    task = TASKS["MockRetrievalTask"]
    check_equal(scores_of(encoder, task), scores_of(model, task))
    rows = model.encode(["a cat", "two dogs", "no"])
    np.testing.assert_allclose(
        encoder.similarity_pairwise(rows[:2], rows[1:]), model.similarity_pairwise(rows[:2], rows[1:]), atol=1e-6
    )
