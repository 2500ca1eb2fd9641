import numpy as np
import pytest
import torch

from csr_hf import CSRTrainer, CSRTrainingArguments, Source
from csr_hf.training.head_metrics import describe_variance, measure_head, measure_held_out_variance
from csr_hf.training.rows import TrainingRows
from tests.conftest import make_head


@pytest.fixture
def source():
    rows = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    source = Source.from_arrays({"embedding": rows})
    source.held_out[:150] = True
    return source


def test_explained_variance_of_held_out_rows_follows_its_formula(source):
    head, rows = make_head(), source.vectors["embedding"][np.arange(150, 200)]
    with torch.no_grad():
        decoded = head.decode(*head.encode(torch.from_numpy(rows))).numpy()
    expected = 1 - np.square(decoded - rows).sum() / np.square(rows - rows.mean(0)).sum()
    found = measure_held_out_variance(head, [source])
    assert found == {"held_out_explained_variance": pytest.approx(expected, rel=1e-5)}


def test_nothing_is_measured_on_fewer_than_two_rows(source):
    source.held_out[:199] = True
    assert measure_held_out_variance(make_head(), [source]) == {}


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_rows_have_no_explained_variance(value):
    rows = TrainingRows([Source.from_arrays({"embedding": np.full((40, 12), value, np.float32)})])
    assert "explained_variance" not in measure_head(make_head(), rows)


def test_a_training_on_equal_rows_reports_none(tmp_path):
    args = CSRTrainingArguments(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, save_steps=0)
    figures = CSRTrainer(make_head(), args, np.full((40, 12), 0.1, np.float32)).train()
    assert "explained_variance" not in figures
    assert describe_variance(figures) == "not defined, all rows are equal"


def test_the_log_tells_held_out_rows_from_those_trained_on():
    figures = {"explained_variance": 0.99}
    assert describe_variance(figures) == "0.990"
    figures["held_out_explained_variance"] = 0.4321
    assert describe_variance(figures) == "0.432 of held-out rows (0.990 in training)"
