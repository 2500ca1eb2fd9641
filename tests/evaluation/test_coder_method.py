import numpy as np
import pytest

from csr_hf.codes import head_fingerprint
from csr_hf.evaluation.coder_method import CoderMethod
from csr_hf.evaluation.methods import all_methods
from tests.evaluation.conftest import unit
from tests.helpers.coders import Halves
from tests.publishing.conftest import make_head


@pytest.fixture
def rows():
    return 3 * np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_queries_are_compared_with_what_a_coder_reads_back(rows, similarity):
    method = CoderMethod(Halves(8), make_head(input_dim=12), similarity)
    documents, queries = rows[:50], rows[50:]
    stored = np.pad(documents[:, :4].astype(np.float16).astype(np.float32), ((0, 0), (0, 8)))
    if similarity == "cosine":
        expected = unit(queries) @ unit(stored).T
    elif similarity == "dot":
        expected = queries @ stored.T
    else:
        expected = -np.linalg.norm(queries[:, None] - stored[None], axis=2)
    hits = method.index(documents).search(queries, 5)
    np.testing.assert_allclose(hits.scores, -np.sort(-expected, axis=1)[:, :5], atol=1e-4)
    np.testing.assert_allclose(method.index(documents).score(queries[0], np.arange(50)), expected[0], atol=1e-4)
    norms = np.linalg.norm(method.vectors(documents), axis=1)
    np.testing.assert_allclose(norms, 1 if similarity == "cosine" else np.linalg.norm(stored, axis=1), rtol=1e-5)


def test_coders_get_embeddings_of_whatever_norm(rows):
    """The head was trained on them as they are; of unit norm its codes would be others."""
    seen = []
    coder = Halves(8)
    coder.encode = lambda embeddings: seen.append(embeddings) or embeddings[:, :4]
    CoderMethod(coder, make_head(input_dim=12)).index(rows)
    assert np.array_equal(seen[0], rows)


def test_settings_name_everything_that_changes_a_score():
    head = make_head(input_dim=12)
    method = CoderMethod(Halves(8), head, "dot")
    assert (method.name, method.k, method.bytes_per_vector, method.of_head) == ("CSR, packed", 4, 8, True)
    assert method.settings == {
        "method": "CSR, packed",
        "k": 4,
        "bytes": 8,
        "bits": 16,
        "head": head_fingerprint(head),
        "similarity": "dot",
    }


def test_each_modality_is_centered_as_the_head_does(rows):
    head = make_head(input_dim=12, modalities=["image", "text"])
    means = np.random.default_rng(1).standard_normal((2, 12)).astype(np.float32)
    head.modality_bias.data[:] = head.modality_bias.new_tensor(means)
    method = CoderMethod(Halves(8), head)
    np.testing.assert_allclose(method.center(rows, "text"), rows - means[1], atol=1e-5)


def test_at_given_bytes_every_method_is_made_within_them_once(rows, fitted_coders):
    head = make_head(input_dim=12)
    methods = all_methods(head, rows, budgets=[8, 9, 16, 8], baselines=["truncate", "int8", "binary", "rotated"])
    assert [(method.name, method.k, method.bytes_per_vector) for method in methods] == [
        ("dense", None, 48),
        ("CSR, packed", 4, 8),
        ("CSR, packed", 8, 16),
        ("truncation", None, 8),
        ("truncation", None, 9),
        ("truncation", None, 12),
        ("int8", None, 12),
        ("binary", None, 2),
        ("rotated signs", None, 2),
    ]
    ((given_head, train, budgets),) = fitted_coders
    assert given_head is head
    assert np.array_equal(train, rows)
    assert budgets == [8, 9, 16]


def test_sparse_codes_can_be_measured_beside_packed_ones(rows, fitted_coders):
    methods = all_methods(make_head(input_dim=12), None, ks=[3], budgets=[8], baselines=["truncate"])
    assert [method.name for method in methods] == [
        "dense",
        "CSR, packed",
        "CSR",
        "CSR, decoded",
        "CSR + int8",
        "truncation",
    ]
    assert [method.bytes_per_vector for method in methods if method.name == "truncation"] == [8]
