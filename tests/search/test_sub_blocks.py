"""Groups of documents within a block, by their signs."""

import itertools

import numpy as np
import pytest

from csr_hf.search.lookup import ROOM
from csr_hf.search.sub_blocks import signs_of, sub_blocks


def some_blocks(width, sizes, seed):
    """Signs of documents in blocks of these sizes, with a few much alike in each."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    seeds = rng.random((-(-n // 10), 8 * width)) > 0.5
    bits = seeds[np.arange(n) // 10] ^ (rng.random((n, 8 * width)) < 0.03)
    return np.packbits(bits, axis=1), begins


@pytest.mark.parametrize("width", [1, 6, 8, 13])
def test_every_document_keeps_its_block_and_its_signs(width):
    signs, begins = some_blocks(width, [256, 1, 100, 30, 37, 12], width)
    made = sub_blocks(signs, begins)
    for first, stop in itertools.pairwise(begins):
        assert sorted(made.order[first:stop]) == list(range(first, stop))
    np.testing.assert_array_equal(signs_of(made.planes, made.rows), signs[made.order])
    assert made.rows[0] == 0
    assert made.rows[-1] == len(signs)
    assert len(made.rows) > len(begins)
    assert (np.diff(made.rows) > 0).all()
    np.testing.assert_array_equal(made.rows[made.firsts], begins)
    assert len(made.planes) == signs.size + ROOM
    assert len(made.centers) == width * (len(made.rows) - 1) + ROOM
    again = sub_blocks(signs, begins)
    assert all(np.array_equal(one, other) for one, other in zip(made, again, strict=True))


def test_similar_documents_share_a_sub_block_and_its_centre_is_their_majority():
    rng = np.random.default_rng(0)
    seeds = rng.random((4, 96)) > 0.5
    of_seed = rng.permutation(np.repeat(np.arange(4), 25))
    bits = seeds[of_seed] ^ (rng.random((100, 96)) < 0.05)
    signs = np.packbits(bits, axis=1)
    made = sub_blocks(signs, np.array([0, 100]))
    np.testing.assert_array_equal(np.diff(made.rows), 4 * [25])
    centers = np.unpackbits(made.centers[: 4 * 12].reshape(12, 4).T.copy(), axis=1)
    for number in range(4):
        members = made.order[made.rows[number] : made.rows[number + 1]]
        assert len(set(of_seed[members])) == 1
        # Documents of a sub-block stay in the order they had.
        assert (np.diff(members) > 0).all()
        np.testing.assert_array_equal(centers[number], bits[members].mean(axis=0) > 0.5)


def test_equal_documents_are_one_sub_block():
    signs, begins = some_blocks(5, [200, 60], 1)
    signs[:200] = signs[0]
    made = sub_blocks(signs, begins)
    assert made.firsts[1] == 1
    assert made.firsts[2] > 2


def test_documents_that_form_no_groups_stay_together():
    rng = np.random.default_rng(3)
    bits = rng.random((200, 384)) > 0.5
    made = sub_blocks(np.packbits(bits, axis=1), np.array([0, 200]))
    assert made.rows.tolist() == [0, 200]
    assert made.order.tolist() == list(range(200))
    np.testing.assert_array_equal(np.unpackbits(made.centers[:48]), bits.mean(axis=0) > 0.5)


def test_no_documents():
    made = sub_blocks(np.empty((0, 4), np.uint8), np.zeros(1, np.int64))
    assert made.rows.tolist() == [0]
    assert len(signs_of(made.planes, made.rows)) == 0
