import numpy as np
import pytest
import torch

from csr_hf.evaluation.cross_modal import evaluate_cross_modal
from csr_hf.evaluation.csr_methods import CSRMethod
from csr_hf.evaluation.vector_method import DenseMethod
from tests.conftest import make_head

CAPTIONS = ["a", "b", "c", "a", "d", "b"]


@pytest.fixture
def two():
    """A head with far means, and pairs that lie together once these are subtracted."""
    head = make_head(modalities=["image", "text"], k=12)
    rng = np.random.default_rng(0)
    head.modality_bias.copy_(torch.from_numpy(4 * rng.standard_normal((2, 12)).astype(np.float32)))
    head.latent_bias.data.zero_()
    meanings = {name: rng.standard_normal(12).astype(np.float32) for name in "abcd"}
    shared = np.stack([meanings[caption] for caption in CAPTIONS])
    noise = 0.01 * rng.standard_normal(shared.shape).astype(np.float32)
    bias = head.modality_bias.numpy()
    return head, shared + noise + bias[0], shared + bias[1]


def score(rows, direction, metric, method):
    (row,) = [row for row in rows if (row.task, row.metric, row.method) == (f"t, {direction}", metric, method)]
    return row.score, row.retention


def test_equal_captions_are_one_text(two):
    """By hand: texts a b c d; images 0 and 3 are both right for a, and one of them suffices."""
    head, images, texts = two
    centered = images - head.modality_bias[0].numpy(), texts - head.modality_bias[1].numpy()
    rows = evaluate_cross_modal([DenseMethod(12)], *centered, CAPTIONS, task="t")
    assert {row.metric for row in rows} == {"R@1", "R@5", "R@10"}
    assert score(rows, "text to image", "R@1", "dense") == (1, 1)
    assert score(rows, "image to text", "R@1", "dense") == (1, 1)
    wrong = centered[0][[1, 0, 2, 3, 4, 5]]
    rows = evaluate_cross_modal([DenseMethod(12)], wrong, centered[1], CAPTIONS, task="t")
    # Images 0 and 1 are exchanged: their texts come first in vain; a and b are found through images 3 and 5.
    assert score(rows, "image to text", "R@1", "dense")[0] == pytest.approx(4 / 6)
    assert score(rows, "text to image", "R@5", "dense")[0] == 1


def test_methods_of_the_head_compare_centered_embeddings(two):
    head, images, texts = two
    methods = [DenseMethod(12), CSRMethod(head, 12, plain=True)]
    rows = evaluate_cross_modal(methods, images, texts, CAPTIONS, task="t")
    for direction in ("text to image", "image to text"):
        dense, sparse = (score(rows, direction, "R@1", name)[0] for name in ("dense", "CSR"))
        assert sparse == 1 > dense
        assert score(rows, direction, "R@1", "CSR")[1] == (1 / dense if dense else 0)
    head.modality_bias.zero_()
    plain = evaluate_cross_modal(methods, images, texts, CAPTIONS, task="t")
    assert score(plain, "text to image", "R@1", "CSR")[0] < 1
