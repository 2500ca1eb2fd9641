"""CSREncoder beside the real libraries: sentence-transformers' tools, mteb, datasets, pickle, torch.compile."""

import inspect
import pickle
import pydoc
import re
from typing import get_type_hints

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SparseEncoder, util
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from csr_hf import CSREncoder, SparseCodes, load_backbone
from csr_hf.codes import decoded_norms, encode_embeddings, project_queries
from csr_hf.publishing.sentence_transformers import native_head
from tests.conftest import make_head
from tests.helpers.backbones import KINDS

TEXTS = KINDS["bert"].sentences(40)


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    backbone = load_backbone(str(tiny_folder("bert")), device="cpu")
    return CSREncoder(backbone, make_head(input_dim=32, hidden_dim=96, k=6))


def test_constructor_takes_a_name_a_model_or_a_backbone(tiny_folder):
    folder = str(tiny_folder("bert"))
    model = SentenceTransformer(folder, device="cpu")
    given = [folder, model, load_backbone(folder, device="cpu")]
    rows = [CSREncoder(each, make_head(input_dim=32)).encode(TEXTS[:4]).values for each in given]
    for each in rows[1:]:
        np.testing.assert_allclose(each, rows[0], atol=1e-6)
    assert CSREncoder(model, make_head(input_dim=32), 3).encode("a text").k == 3
    assert CSREncoder(model).backbone.name == folder
    with pytest.raises(ValueError, match="from_sparse_encoder"):
        CSREncoder(SparseEncoder(modules=[*model.children(), native_head(make_head(input_dim=32))], device="cpu"))
    with pytest.raises(ValueError, match=r"`backbone` \(int\) must be a Hub id"):
        CSREncoder(5)
    with pytest.raises(ValueError, match="`revision` is for a backbone by name"):
        CSREncoder(model, revision="main")


def test_unfitted_encoders_say_so(tiny_folder):
    encoder = CSREncoder(str(tiny_folder("bert")), k=7, device="cpu")
    assert repr(encoder).endswith("bert/model, k=7, not fitted)")
    assert (encoder.k, encoder.device.type, len(encoder.embed(["a text"]))) == (7, "cpu", 1)
    calls = [
        lambda: encoder.encode("a"),
        lambda: encoder.encode_query("a"),
        lambda: encoder.encode_document("a"),
        lambda: encoder.head,
        lambda: encoder.fingerprint,
        lambda: encoder.mteb_model_meta,
        lambda: encoder.to_sparse_encoder(),
        lambda: encoder.save_pretrained("nowhere"),
        lambda: encoder.push_to_hub("user/name"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"is not fitted. Train a head with `fit\(texts\)`"):
            call()


def test_keywords_of_sentence_transformers(encoder):
    codes = encoder.encode(TEXTS[:5])
    assert isinstance(codes, SparseCodes)
    dense = codes.to_scipy().toarray()
    tensor = encoder.encode(TEXTS[:5], convert_to_tensor=True)
    assert tensor.is_sparse and tensor.shape == (5, 96)
    assert np.array_equal(tensor.to_dense().numpy(), dense)
    assert np.array_equal(encoder.encode(TEXTS[:5], convert_to_sparse_tensor=False).numpy(), dense)
    assert encoder.encode(TEXTS[0], convert_to_sparse_tensor=True).shape == (96,)
    assert encoder.encode(TEXTS[:5], max_active_dims=2).k == 2
    unit = encoder.encode(TEXTS[:5], normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit.values, axis=1), 1, atol=1e-6)
    prompted = encoder.encode(["x"], None, "ask: ", 8, False)
    np.testing.assert_allclose(prompted.values, encoder.encode(["ask: x"]).values, atol=1e-6)
    for call in (encoder.encode, encoder.encode_query, encoder.encode_document):
        with pytest.raises(TypeError, match="unexpected keyword argument 'convert_to_numpi'"):
            call("a", convert_to_numpi=True)
        with pytest.raises(TypeError, match=r"'normalize_embedings'. Did you mean `normalize_embeddings`"):
            call("a", normalize_embedings=True)
        with pytest.raises(TypeError, match=r"'convert_to_numpy'. Pass `convert_to_sparse_tensor=False` for a dense"):
            call("a", convert_to_numpy=True)
        with pytest.raises(TypeError, match=r"'k'. Pass `max_active_dims`"):
            call("a", k=3)
    with pytest.raises(TypeError, match=r"'refine'. Pass it to `encode` or `encode_document`"):
        encoder.encode_query("a", refine=True)


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_signatures_and_help_show_every_keyword(name):
    """What notebooks and consoles complete by."""
    method = getattr(CSREncoder, name)
    shown = inspect.signature(method).parameters
    stock = inspect.signature(getattr(SparseEncoder, name)).parameters.keys() - {"kwargs", "save_to_cpu", "pool"}
    assert stock <= shown.keys()
    assert not [each for each in shown.values() if each.kind == each.VAR_KEYWORD]
    # From Python 3.13 on, a long signature takes several lines.
    signature, found, _ = pydoc.plain(pydoc.render_doc(method)).partition(") -> ")
    for keyword in shown:
        assert found and keyword in signature
    assert shown["batch_size"].default == inspect.signature(SparseEncoder.encode).parameters["batch_size"].default


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_defaults_that_are_shown_are_those_that_count(encoder, name):
    method = getattr(encoder, name)
    shown = {key: each.default for key, each in inspect.signature(method).parameters.items() if key != "inputs"}
    found, expected = method(TEXTS[:5], **shown), method(TEXTS[:5])
    assert np.array_equal(found.indices, expected.indices) and np.array_equal(found.values, expected.values)


def test_help_and_editors_show_every_keyword():
    # Editors complete the keys of the TypedDict, help() shows the docstring.
    form = get_type_hints(CSREncoder.encode)["form"].__args__[0].__annotations__
    own = inspect.signature(CSREncoder.encode).parameters.keys() - {"self"}
    stock = inspect.signature(SparseEncoder.encode).parameters.keys() - {"self", "kwargs", "save_to_cpu", "pool"}
    assert stock <= own | form.keys()
    for name in own | form.keys():
        # Python 3.13 takes the indentation out of docstrings.
        assert re.search(rf"^    {name}: ", inspect.getdoc(CSREncoder.encode), re.MULTILINE)


@pytest.mark.parametrize("kind", ["bert", "dot"])
def test_the_obvious_pair_is_the_recommended_ranking(tiny_folder, kind):
    encoder = CSREncoder(
        load_backbone(str(tiny_folder(kind)), device="cpu"), make_head(input_dim=32, hidden_dim=96, k=6)
    )
    queries, documents = TEXTS[:6], TEXTS[6:]
    found = encoder.similarity(encoder.encode_query(queries), encoder.encode_document(documents))
    stored = encode_embeddings(encoder.head, encoder.embed(documents, task="document"), refine="pursuit")
    projections = project_queries(encoder.head, encoder.embed(queries, task="query")).codes(24)
    expected = projections.to_scipy() @ stored.to_scipy().T.toarray()
    if kind == "bert":
        expected = expected / decoded_norms(encoder.head, stored)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == torch.float32 and not found.is_sparse
    own = encoder.encode_query(queries, project=False), encoder.encode_document(documents, refine=False)
    assert np.array_equal(own[0].indices, encoder.encode(queries, task="query").indices)
    assert np.array_equal(own[1].values, encoder.encode(documents, task="document").values)
    assert len(encoder.encode_query([])) == len(encoder.encode_document([])) == 0
    pairs = encoder.similarity_pairwise(encoder.encode_query(queries), encoder.encode_document(documents[:6]))
    np.testing.assert_allclose(pairs, np.diagonal(found[:, :6]), atol=1e-6)


def test_similarity_takes_tensors_and_arrays(encoder):
    codes = encoder.encode(TEXTS[:3]), encoder.encode(TEXTS[3:8])
    expected = codes[0].to_scipy().toarray() @ codes[1].to_scipy().toarray().T
    for layout in ("sparse", "dense"):
        found = encoder.similarity(codes[0].to_torch(layout), codes[1])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        encoder.similarity(*(each.to_torch("dense").numpy() for each in codes)), expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a", "b", r"`embeddings1` \(str\) holds no codes. Encode first"),
        (["a"], ["b"], r"`embeddings1` \(list\) holds no codes. Encode first"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "`embeddings1` has 3 latents, `embeddings2` 4: compare codes"),
        (np.zeros((2, 3, 4)), np.zeros((2, 4)), r"`embeddings1` has the shape \(2, 3, 4\)"),
    ],
)
def test_similarity_refuses_what_is_no_code(encoder, first, second, message):
    for compare in (encoder.similarity, encoder.similarity_pairwise):
        with pytest.raises(ValueError, match=message):
            compare(first, second)


def test_pairs_need_as_many_rows(encoder):
    with pytest.raises(ValueError, match="`embeddings1` has 3 rows, `embeddings2` 5: pairs need as many"):
        encoder.similarity_pairwise(encoder.encode(TEXTS[:3]), encoder.encode(TEXTS[3:8]))


@pytest.mark.parametrize("sparse", [True, False])
def test_semantic_search(encoder, sparse):
    queries = encoder.encode_query(TEXTS[:4], convert_to_sparse_tensor=sparse)
    documents = encoder.encode_document(TEXTS, convert_to_sparse_tensor=sparse)
    hits = util.semantic_search(queries, documents, top_k=3, score_function=encoder.similarity)
    expected = encoder.similarity(queries, documents).topk(3)
    assert [[hit["corpus_id"] for hit in each] for each in hits] == expected.indices.tolist()


def test_several_processes_give_the_same_codes(encoder):
    expected = encoder.encode_document(TEXTS)
    found = encoder.encode_document(TEXTS, device=["cpu", "cpu"], chunk_size=20)
    assert np.array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


def test_data_sets_map(encoder):
    dataset = Dataset.from_dict({"text": TEXTS})

    def encode(batch):
        codes = encoder.encode(batch["text"])
        return {"latents": codes.indices, "values": codes.values}

    mapped = dataset.map(encode, batched=True, batch_size=16)
    expected = encoder.encode(TEXTS)
    assert np.array_equal(np.array(mapped["latents"]), expected.indices)
    np.testing.assert_allclose(np.array(mapped["values"]), expected.values, atol=1e-5)
    assert np.array_equal(encoder.encode(dataset["text"]).indices, expected.indices)


def test_pickles(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    assert again.fingerprint == encoder.fingerprint
    assert np.array_equal(again.encode(TEXTS).indices, encoder.encode(TEXTS).indices)


def test_compiles(tiny_folder):
    encoder = CSREncoder(load_backbone(str(tiny_folder("bert")), device="cpu"), make_head(input_dim=32, hidden_dim=96))
    expected = encoder.encode(TEXTS[:4])
    encoder.backbone.model.compile(backend="eager")
    found = encoder.encode(TEXTS[:4])
    assert np.array_equal(found.indices, expected.indices)
    rows = torch.from_numpy(encoder.embed(TEXTS[:4]))
    values, indices = torch.compile(encoder.head.encode, backend="eager", fullgraph=True)(rows)
    assert np.array_equal(indices.numpy(), expected.indices)
    np.testing.assert_allclose(values.detach().numpy(), expected.values, atol=1e-6)


def test_moves_and_halves(tiny_folder):
    encoder = CSREncoder(load_backbone(str(tiny_folder("bert")), device="cpu"), make_head(input_dim=32, hidden_dim=96))
    expected, name = encoder.encode(TEXTS, convert_to_sparse_tensor=False), encoder.fingerprint
    before = encoder.backbone.fingerprint
    assert encoder.to("cpu") is encoder and encoder.device.type == "cpu"
    assert encoder.half() is encoder
    assert encoder.head.dtype == next(encoder.backbone.model.parameters()).dtype == torch.float16
    found = encoder.encode(TEXTS, convert_to_sparse_tensor=False)
    assert torch.nn.functional.cosine_similarity(found, expected).mean() > 0.995
    assert (encoder.fingerprint, encoder.backbone.fingerprint != before) == (name, True)


@pytest.mark.parametrize("kind", ["bert", "dot", "bfloat16", "matryoshka"])
def test_sparse_encoders_in_memory_and_back(tiny_folder, kind):
    made = KINDS[kind]
    backbone = load_backbone(str(tiny_folder(kind)), device="cpu", **made.settings)
    encoder = CSREncoder(backbone, make_head(input_dim=made.dim, hidden_dim=96, k=6))
    stock = encoder.to_sparse_encoder()
    is_cosine = backbone.similarity_fn_name == "cosine"
    expected = encoder.encode(TEXTS, convert_to_sparse_tensor=False, normalize_embeddings=is_cosine)
    found = stock.encode(TEXTS, convert_to_sparse_tensor=False)
    near = made.tolerance if made.is_half else 1e-6
    torch.testing.assert_close(found, expected, atol=max(near, 1e-6), rtol=0)
    again = CSREncoder.from_sparse_encoder(stock)
    assert (again.k, again.backbone.similarity_fn_name) == (6, backbone.similarity_fn_name)
    back = again.encode(TEXTS, convert_to_sparse_tensor=False, normalize_embeddings=is_cosine)
    torch.testing.assert_close(back, expected, atol=max(near, 1e-6), rtol=0)
    with pytest.raises(ValueError, match="has 0 SparseAutoEncoder modules"):
        CSREncoder.from_sparse_encoder(backbone.model)


def gap(encoder, texts, k):
    """Difference of the k-th and the next pre-activation."""
    rows = torch.from_numpy(encoder.embed(texts))
    highest = encoder.head.pre_activations(rows).topk(k + 1).values
    return (highest[:, -2] - highest[:, -1]).detach()


@pytest.mark.parametrize("kind", ["bert", "dot", "bfloat16"])
def test_doors_give_equal_supports(tiny_folder, kind):
    """Wherever the k-th and the next pre-activation differ by more than the tolerance; of 16 bits, directions."""
    made = KINDS[kind]
    backbone = load_backbone(str(tiny_folder(kind)), device="cpu")
    encoder = CSREncoder(backbone, make_head(input_dim=32, hidden_dim=96, k=6))
    texts = made.sentences(200)
    after = [Normalize()] if backbone.similarity_fn_name == "cosine" else []
    native = native_head(encoder.head)
    assembled = SparseEncoder(modules=[*backbone.model.children(), native, *after], device="cpu")
    # Sentence-transformers gave it the type of the backbone.
    native.float().load_state_dict(native_head(encoder.head).state_dict())
    values, indices = encoder.head.encode(torch.from_numpy(encoder.embed(texts)))
    alone = torch.zeros(len(texts), 96).scatter(-1, indices, values.detach())
    own = encoder.encode(texts, convert_to_sparse_tensor=False)
    doors = {"assembled": assembled, "made": encoder.to_sparse_encoder()}
    codes = {name: door.encode(texts, convert_to_sparse_tensor=False) for name, door in doors.items()}
    codes["head"] = alone
    sure = gap(encoder, texts, 6) > 1e-5
    assert sure.float().mean() > 0.9
    scale = (lambda rows: torch.nn.functional.normalize(rows)) if after else (lambda rows: rows)
    for name, found in codes.items():
        if made.is_half and name != "head":
            assert torch.nn.functional.cosine_similarity(found, own).min() > 0.999, name
            continue
        assert torch.equal((found > 0)[sure], (own > 0)[sure]), name
        torch.testing.assert_close(scale(found)[sure], scale(own)[sure], atol=1e-6, rtol=1e-6)


def test_several_heads_in_one_model_are_refused(encoder):
    modules = [*encoder.backbone.model.children(), native_head(encoder.head)]
    whole = SparseEncoder(modules=[*modules, SparseAutoEncoder(96, 96, 4)], device="cpu")
    with pytest.raises(ValueError, match="has 2 SparseAutoEncoder modules; one is expected"):
        CSREncoder.from_sparse_encoder(whole)


def test_mteb_evaluates_an_encoder(encoder, tmp_path):
    mteb = pytest.importorskip("mteb")
    from mteb.cache import ResultCache

    from tests.helpers.mteb_tasks import TEXT_TASKS, by_name

    tasks = [by_name(TEXT_TASKS)[f"Mock{kind}Task"] for kind in ("Retrieval", "Reranking", "STS", "Classification")]
    cache = ResultCache(tmp_path)
    done = mteb.evaluate(encoder, tasks, cache=cache, co2_tracker=False, show_progress_bar=False)
    assert len(done.task_results) == 4
    meta = encoder.mteb_model_meta
    assert meta.name == "local/csr-model" and meta.revision == encoder.fingerprint
    assert meta.experiment_kwargs["k"] == 6
    smaller = CSREncoder(encoder.backbone, make_head(input_dim=32, hidden_dim=96, k=6), k=2)
    assert smaller.mteb_model_meta.experiment_kwargs != meta.experiment_kwargs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 999, "hidden_dim": 64}, "`k` .999. must not exceed `hidden_dim`"),
        ({"k": 0}, "`k` .0. must be a positive integer"),
        ({"k": "32"}, "`k` .'32'. must be a positive integer"),
        ({"hidden_dim": "abc"}, "hidden_dim` .'abc'. must be a number, or a multiple"),
        ({"hidden_dim": -1}, "hidden_dim` .-1. must be a number"),
        ({"head": "qs/model"}, "`head` .'qs/model'. is no CSRModel"),
    ],
)
def test_sizes_that_no_head_has_are_refused_at_once(tiny_folder, given, message):
    with pytest.raises(ValueError, match=message):
        CSREncoder(str(tiny_folder("bert")), device="cpu", **given)


def test_a_device_that_cannot_be_used_is_named_at_once(tiny_folder, encoder):
    folder = str(tiny_folder("bert"))
    for call in (
        lambda: CSREncoder(folder, device="toaster"),
        lambda: load_backbone(folder, device="toaster"),
        lambda: encoder.encode("a", device="toaster"),
        lambda: encoder.encode_query(["a", "b"], device=["cpu", "toaster"]),
    ):
        with pytest.raises(ValueError, match=r"`device` toaster cannot be used: .*Leave it out, or give cpu"):
            call()
    assert np.array_equal(encoder.encode("a", device="cpu").indices, encoder.encode("a").indices)
