import re

import numpy as np
import pytest

from csr_hf import RunData, Source
from csr_hf.data.checks import check_embeddings


def of(rows, held_out=None):
    source = Source.from_arrays({"embedding": np.asarray(rows, np.float32)}, name="rows")
    if held_out is not None:
        source.held_out[held_out] = True
    return RunData(None, [source])


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((300, 8))


def test_sound_embeddings_give_no_warning(rows):
    assert check_embeddings(of(rows), 64) == []
    assert check_embeddings(of(rows / np.linalg.norm(rows, axis=1, keepdims=True)), 300) == []


def test_fewer_rows_than_latents(rows):
    (said,) = check_embeddings(of(rows, slice(250, None)), 1_536)
    assert said == (
        "250 embeddings for 1,536 latents: most of them learn nothing. Lower `model.hidden_dim`, or give more data."
    )


def test_equal_rows_are_refused_unless_they_are_held_out(rows):
    with pytest.raises(ValueError, match="all 300 embeddings to train on are equal: there is nothing to learn"):
        check_embeddings(of(np.repeat(rows[:1], 300, axis=0)), 64)
    assert check_embeddings(of(rows, slice(1, None)), 64) == []


@pytest.mark.parametrize(("factor", "advice"), [(1e6, "by 1e\\+07"), (2e4, "by 1e\\+05")])
def test_embeddings_that_codes_cannot_hold_are_refused(rows, factor, advice):
    with pytest.raises(ValueError, match=f"codes hold numbers up to 65,504. Divide all of them {advice}"):
        check_embeddings(of(rows * factor), 64)


def test_rows_that_hardly_differ(rows):
    (said,) = check_embeddings(of(1 + rows * 1e-5), 64)
    assert said.startswith("the embeddings hardly differ: their variance is 1")


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_sizes_that_codes_do_not_hold_are_refused_and_the_advice_helps(rows, scale):
    with pytest.raises(ValueError, match="embeddings have norms") as error:
        check_embeddings(of(rows * scale), 64)
    verb, factor = re.search(r"(Divide|Multiply) all of them by (\S+);", str(error.value)).groups()
    helped = rows * scale * float(factor) if verb == "Multiply" else rows * scale / float(factor)
    assert check_embeddings(of(helped), 64) == []


def test_zeros_repeats_and_mixed_norms(rows):
    zeros, mixed = rows.copy(), rows.copy()
    zeros[:30], mixed[7] = 0, rows[7] * 1e3
    assert check_embeddings(of(zeros), 64) == [
        "10.0% of the embeddings are zero: nothing finds them. Leave those rows out."
    ]
    (said,) = check_embeddings(of(mixed), 64)
    assert said.startswith("norms of the embeddings differ: half are below 2.")
    (said,) = check_embeddings(of(np.repeat(rows[:100], 3, axis=0)), 64)
    assert said.startswith("only 100 of 300 embeddings are different ones")


def test_all_roles_count_and_many_rows_are_sampled(rows, monkeypatch):
    data = RunData(None, [Source.from_arrays({"anchor": rows, "positive": rows[::-1]})])
    assert check_embeddings(data, 600) == [
        "only 300 of 600 embeddings are different ones: "
        + "figures of held-out rows mean less. Leave repeated rows out."
    ]
    repeated = rows.copy()
    repeated[1::3] = repeated[2::3] = 1
    assert len(check_embeddings(of(repeated), 300)) == 1
    monkeypatch.setattr("csr_hf.data.checks._SAMPLE", 100)
    # Every third row, of which none is repeated.
    assert check_embeddings(of(repeated), 300) == []
