import numpy as np
import pytest

from csr_hf.codes import head_fingerprint
from csr_hf.coding.coder import Coder
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.evaluation.coder_method import CoderMethod, make_coder_methods
from csr_hf.evaluation.methods import all_methods
from tests.evaluation.conftest import unit
from tests.publishing.conftest import make_head


@pytest.fixture
def rows():
    return 3 * np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def many_rows():
    """As many as residual codes are fitted on, near a few directions."""
    rng = np.random.default_rng(1)
    return (rng.standard_normal((4200, 30)) ** 3 @ rng.standard_normal((30, 12))).astype(np.float32)


def make_coder(row_bytes=8, **arguments):
    return Coder(make_head(input_dim=12), row_bytes=row_bytes, **arguments)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_queries_are_compared_with_what_a_coder_reads_back(rows, similarity):
    coder = make_coder()
    method = CoderMethod(coder, similarity)
    documents, queries = rows[:50], rows[50:]
    # Encoded with the norms that they have: of unit norm their codes would be others, as the head has biases.
    stored = coder.decode(coder.encode(documents))
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


def test_residuals_are_read_back_and_counted(many_rows):
    plain = make_coder(bits=3)
    residual = ScalarQuantizer.fit(many_rows - plain.decode(plain.encode(many_rows)), 6)
    method = CoderMethod(make_coder(bits=3, residual=residual), "dot")
    assert (method.name, method.bytes_per_vector) == ("CSR + residual", 14)
    errors = [((each.vectors(many_rows) - many_rows) ** 2).sum() for each in (CoderMethod(plain, "dot"), method)]
    assert errors[1] < 0.5 * errors[0]


def test_settings_name_everything_that_changes_a_score():
    coder = make_coder()
    method = CoderMethod(coder, "dot")
    assert (method.name, method.k, method.bytes_per_vector, method.of_head) == ("CSR, packed", coder.k, 8, True)
    assert method.settings == {
        "method": "CSR, packed",
        "k": coder.k,
        "bytes": 8,
        "row_bytes": 8,
        "bits": 4,
        "head": head_fingerprint(coder.head),
        "similarity": "dot",
    }


def test_each_modality_is_centered_as_the_head_does(rows):
    head = make_head(input_dim=12, modalities=["image", "text"])
    means = np.random.default_rng(1).standard_normal((2, 12)).astype(np.float32)
    head.modality_bias.data[:] = head.modality_bias.new_tensor(means)
    method = CoderMethod(Coder(head, row_bytes=8))
    np.testing.assert_allclose(method.center(rows, "text"), rows - means[1], atol=1e-5)


def test_coders_without_a_residual_come_first_and_each_setting_once(many_rows):
    made = make_coder_methods(make_head(input_dim=12), many_rows, [9, 27, 48])
    assert [(method.name, method.bytes_per_vector) for method in made] == [
        ("CSR, packed", 9),
        ("CSR, packed", 27),
        ("CSR, packed", 48),
        ("CSR + residual", 48),
    ]
    assert len(make_coder_methods(make_head(input_dim=12), None, [9, 9])) == 1


def test_heads_of_several_modalities_have_no_residuals(many_rows):
    head = make_head(input_dim=12, modalities=["image", "text"])
    assert [method.name for method in make_coder_methods(head, many_rows, [30])] == ["CSR, packed"]


def test_at_given_bytes_every_method_is_made_within_them_once(rows):
    head = make_head(input_dim=12)
    methods = all_methods(head, rows, budgets=[8, 9, 16, 8], baselines=["truncate", "int8", "binary", "rotated"])
    assert [(method.name, method.bytes_per_vector) for method in methods] == [
        ("dense", 48),
        ("CSR, packed", 8),
        ("CSR, packed", 9),
        ("CSR, packed", 16),
        ("truncation", 8),
        ("truncation", 9),
        ("truncation", 12),
        ("int8", 12),
        ("binary", 2),
        ("rotated signs", 2),
    ]


def test_sparse_codes_can_be_measured_beside_packed_ones():
    methods = all_methods(make_head(input_dim=12), None, ks=[3], budgets=[8], baselines=["truncate"])
    assert [method.name for method in methods] == [
        "dense",
        "CSR, packed",
        "CSR",
        "CSR, decoded",
        "truncation",
    ]
    assert [method.bytes_per_vector for method in methods if method.name == "truncation"] == [8]
