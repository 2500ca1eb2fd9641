"""Steered queries ask for more of a latent, or for none of it; what is required is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_hf.codes import encode_embeddings
from csr_hf.explain.latents import Latent, Latents
from csr_hf.explain.steering import Steering, have_latents, read_steering, steer_queries
from tests.coding.heads import make_head, make_rows

HEAD = make_head()
NAMES = Latents(
    [Latent(n, {3: "Blood sugar", 4: "twice", 5: "twice"}.get(n, f"word{n}"), 0.1) for n in range(96)], "h", 9
)
UNITS = HEAD.dictionary.detach().numpy() / np.linalg.norm(HEAD.dictionary.detach().numpy(), axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), latent=st.integers(0, 95), weight=st.floats(0.05, 2))
def test_more_raises_the_projection_and_without_makes_it_negative(seed, latent, weight):
    query = make_rows(1, seed=seed)
    before = float((query @ UNITS[latent])[0])
    norm = float(np.linalg.norm(query))
    more = steer_queries(HEAD, query, Steering({latent: weight}))
    without = steer_queries(HEAD, query, Steering({}, (latent,)))
    assert np.linalg.norm(more) == pytest.approx(norm, rel=1e-4)
    assert float((more @ UNITS[latent])[0]) > before - 1e-5
    assert float((without @ UNITS[latent])[0]) < 0
    assert np.linalg.norm(without) == pytest.approx(norm, rel=1e-4)


def test_a_weight_is_in_norms_of_the_query():
    query = make_rows(2)
    steered = steer_queries(HEAD, query, Steering({7: 0.5, 9: -0.25}))
    norms = np.linalg.norm(query, axis=1, keepdims=True)
    expected = query + norms * (0.5 * UNITS[7] - 0.25 * UNITS[9])
    expected *= norms / np.linalg.norm(expected, axis=1, keepdims=True)
    assert steered == pytest.approx(expected, abs=1e-5)


def test_several_latents_are_removed_together():
    query = make_rows(3)
    removed = steer_queries(HEAD, query, Steering({}, (2, 11, 2)))
    pushed = -0.25 * (2 * UNITS[2] + UNITS[11]) / 3
    # Beside the push nothing of the query is left in the plane of the two atoms.
    norms = np.linalg.norm(query, axis=1, keepdims=True)
    basis = np.linalg.qr(UNITS[[2, 11]].T.astype(np.float64))[0]
    wanted = query - (query @ basis) @ basis.T + norms * pushed
    wanted *= norms / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert removed == pytest.approx(wanted, abs=1e-4)


def test_what_is_required_changes_no_query():
    query, steering = make_rows(1), read_steering(NAMES, must=["blood sugar", 8])
    assert steering == Steering({}, (), (3, 8))
    assert not steering.changes_query
    assert steer_queries(HEAD, query, steering) is query


def test_latents_of_one_name_are_told_apart_by_their_numbers():
    assert [NAMES.name(number) for number in (3, 4, 5, 6)] == ["Blood sugar", "twice #4", "twice #5", "word6"]
    assert [NAMES.find(NAMES.name(number)) for number in (3, 4, 5)] == [3, 4, 5]


def test_numbers_of_numpy_are_numbers():
    codes = encode_embeddings(HEAD, make_rows(1))
    latent, weight = codes.indices[0, 0], codes.values[0, 0]
    for latents in (NAMES, HEAD.config.hidden_dim):
        steering = read_steering(latents, more={latent: weight}, must=[latent])
        assert steering == read_steering(latents, more={int(latent): float(weight)}, must=[int(latent)])


def test_codes_with_all_required_latents():
    codes = encode_embeddings(HEAD, make_rows(50))
    first, second = (int(latent) for latent in codes.indices[0, :2])
    expected = [
        {first, second} <= set(row[values > 0].tolist())
        for row, values in zip(codes.indices, codes.values, strict=True)
    ]
    assert have_latents(codes, [first, second]).tolist() == expected
    assert have_latents(codes, []).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"more": {"blod sugar": 1}}, "'blod sugar' names no latent. Did you mean"),
        ({"without": ["twice"]}, "'twice' names the latents 4, 5"),
        ({"without": ["twices"]}, "Did you mean 'twice #"),
        ({"must": [96]}, "latent 96 does not exist. Give a number from 0 to 95"),
        ({"more": {3: float("nan")}}, "the weight nan"),
        ({"more": {"blood sugar": 0.3}, "without": [3]}, "`more` and `without` both name 'Blood sugar'"),
        ({"must": ["3"], "without": [3]}, "`must` and `without` both name"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        read_steering(NAMES, **given)
