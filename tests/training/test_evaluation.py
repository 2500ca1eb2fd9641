"""Evaluation on held-out rows: its figures, the best step, early stopping, and what a resumed run knows of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset

from csr_hf import CSRConfig, CSRModel, CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from csr_hf.training import objectives
from csr_hf.training.checkpoints import list_checkpoints, load_checkpoint
from tests.conftest import make_head
from tests.plumbing.test_distributed import start
from tests.training.test_trainer import EVERYTHING, equal, state

SETTINGS = {"max_steps": 40, "per_device_train_batch_size": 64, "save_steps": 10, "logging_steps": 20}


def make_trainer(folder, embeddings, held_out=100, head=None, callbacks=None, **arguments):
    args = CSRTrainingArguments(**{**SETTINGS, "eval_steps": 5, **arguments}, output_dir=str(folder))
    head = make_head(dead_threshold=300) if head is None else head
    return CSRTrainer(head, args, embeddings[held_out:], embeddings[:held_out], callbacks)


def evaluations(folder):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    return {line["step"]: line for line in lines if "eval_loss" in line}


def saved(folder):
    return [int(path.name.removeprefix("step_")) for path in list_checkpoints(folder / "checkpoints")]


def judge_by(trainer, values):
    """Let evaluations be judged by the values of a list, one after the other, instead of by a figure of theirs."""
    values = iter(values)
    trainer.held_out.judge = lambda figures: next(values)


@pytest.mark.parametrize("scale", [1, 64])
def test_figures_are_those_of_the_held_out_rows(tmp_path, embeddings, scale):
    embeddings = embeddings * np.float32(scale)
    trainer = make_trainer(tmp_path, embeddings, reconstruction={"1": 1.0}, error="element", beta=0)
    rows = torch.from_numpy(embeddings[:100])
    decoded = trainer.model.decode(*trainer.model.encode(rows)).detach()
    figures = trainer.evaluate()
    error, spread = (rows - decoded).pow(2).sum(), (rows - rows.mean(0)).pow(2).sum()
    assert figures["eval_explained_variance"] == pytest.approx(float(1 - error / spread), rel=1e-4)
    # The error is that of embeddings divided by a power of two.
    divided = float(objectives.reconstruction(rows, decoded, 12.0)) / trainer.batches.scale**2
    assert figures["eval_reconstruction_5"] == figures["eval_loss"] == pytest.approx(divided, rel=1e-4)
    assert {"eval_dead_fraction", "eval_neighbor_recall", "eval_postings_per_document"} <= figures.keys()
    trained = trainer.train()
    assert trained["eval_explained_variance"] == trainer.evaluate()["eval_explained_variance"]
    assert trained["eval_explained_variance"] != trained["explained_variance"]


def test_evaluations_change_nothing(tmp_path, embeddings):
    plain = make_trainer(tmp_path / "plain", embeddings, eval_steps=0, **EVERYTHING)
    evaluated = make_trainer(tmp_path / "evaluated", embeddings, eval_steps=3, **EVERYTHING)
    for trainer in (plain, evaluated):
        torch.manual_seed(3)
        trainer.train()
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert equal(state(plain), state(evaluated))
    # Without eval_steps the end alone is evaluated; with them the end too.
    assert list(evaluations(tmp_path / "plain")) == [40]
    assert list(evaluations(tmp_path / "evaluated")) == [*range(3, 40, 3), 40]
    assert evaluations(tmp_path / "plain")[40] == evaluations(tmp_path / "evaluated")[40]


def test_best_checkpoint_is_kept_and_loaded_at_the_end(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, load_best_model_at_end=True, save_total_limit=1, save_steps=15)
    judge_by(trainer, [0.1, 0.2, 0.9, 0.3, 0.3, 0.4, 0.5, 0.2])
    figures = trainer.train()
    # Step 15 was the best; 30 is the newest that save_steps asked for.
    assert saved(tmp_path) == [15, 30]
    assert (figures["best_step"], figures["steps"]) == (15, 40)
    assert equal(state(trainer), load_checkpoint(tmp_path / "checkpoints" / "step_0000015").weights)
    measured = evaluations(tmp_path)[15]
    assert all(figures[name] == measured[name] for name in measured if name.startswith("eval_"))
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoints" / "step_0000015")


def test_best_by_a_figure_that_is_better_when_smaller(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, metric_for_best_model="eval_loss")
    trainer.train()
    losses = {step: line["eval_loss"] for step, line in evaluations(tmp_path).items()}
    assert trainer.state.best_metric == min(losses.values())
    assert losses[trainer.state.best_global_step] == min(losses.values())
    other = make_trainer(tmp_path / "other", embeddings, metric_for_best_model="loss", greater_is_better=True)
    other.train()
    assert other.state.best_metric == max(losses.values())


def test_training_stops_when_evaluations_no_longer_improve(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, early_stopping_patience=2, load_best_model_at_end=True)
    judge_by(trainer, [0.1, 0.3, float("nan"), 0.3])
    figures = trainer.train()
    assert (figures["steps"], figures["best_step"]) == (20, 10)
    assert equal(state(trainer), load_checkpoint(tmp_path / "checkpoints" / "step_0000010").weights)
    # The checkpoint of step 20 remembers that the patience is exhausted.
    again = make_trainer(tmp_path, embeddings, early_stopping_patience=2, load_best_model_at_end=True)
    assert again.train(resume_from_checkpoint=True)["steps"] == 20
    assert equal(state(again), state(trainer))


def test_resumed_run_with_evaluations_equals_one_that_was_not_interrupted(tmp_path, embeddings):
    settings = {**EVERYTHING, "load_best_model_at_end": True, "early_stopping_patience": 3, "save_total_limit": 1}
    values = [0.1, 0.5, 0.2, 0.4, 0.6, 0.1, 0.2, 0.7]
    whole = make_trainer(tmp_path / "whole", embeddings, **settings)
    judge_by(whole, values)
    figures = whole.train()
    cut = make_trainer(tmp_path / "cut", embeddings, **settings)
    judge_by(cut, values)
    cut.train(until=22)
    assert saved(tmp_path / "cut") == [10, 20]
    resumed = make_trainer(tmp_path / "cut", embeddings, **settings)
    judge_by(resumed, values[4:])
    again = resumed.train(resume_from_checkpoint=True)
    assert equal(state(resumed), state(whole))
    timed = {"seconds", "examples_per_second"}
    assert {name: again[name] for name in again.keys() - timed} == {
        name: figures[name] for name in figures.keys() - timed
    }
    whole.state.best_model_checkpoint = whole.state.best_model_checkpoint.replace("whole", "cut")
    assert resumed.state == whole.state
    assert resumed.state.best_global_step == 40
    logs = [(tmp_path / name / "training_log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert saved(tmp_path / "cut") == saved(tmp_path / "whole")


def test_best_step_of_other_rows_or_figures_is_not_believed(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train(until=20)
    for other in (
        make_trainer(tmp_path, embeddings, metric_for_best_model="loss"),
        CSRTrainer(
            make_head(dead_threshold=300),
            CSRTrainingArguments(**SETTINGS, output_dir=str(tmp_path)),
            embeddings[100:],
            embeddings[50:150],
        ),
    ):
        other.resume(True)
        assert other.step == 20
        assert other.state.best_metric is None


def test_best_checkpoint_that_is_gone_leaves_the_last_step(tmp_path, embeddings, caplog):
    settings = {"load_best_model_at_end": True, "save_total_limit": 1}
    trainer = make_trainer(tmp_path, embeddings, **settings)
    judge_by(trainer, [0.9, 0.1, 0.1, 0.1])
    trainer.train(until=20)
    shutil.rmtree(tmp_path / "checkpoints" / "step_0000005")
    resumed = make_trainer(tmp_path, embeddings, **settings)
    judge_by(resumed, [0.1, 0.1, 0.1, 0.1])
    with caplog.at_level("WARNING", logger="csr_hf"):
        resumed.train(resume_from_checkpoint=True)
    assert "the checkpoint of the best step, 5, is gone" in caplog.text
    assert equal(state(resumed), load_checkpoint(tmp_path / "checkpoints" / "step_0000040").weights)


def test_pairs_are_evaluated_as_they_are_trained(tmp_path, embeddings):
    sources = [
        Source.from_arrays(
            {"anchor": embeddings[first : first + 150], "positive": embeddings[first + 150 : first + 300]}
        )
        for first in (0, 300)
    ]
    arguments = CSRTrainingArguments(
        **{**SETTINGS, "max_steps": 5}, gamma=0.1, contrast="pairs", eval_steps=5, output_dir=str(tmp_path)
    )
    trainer = CSRTrainer(make_head(), arguments, [sources[0]], [sources[1]])
    before = trainer.evaluate()
    assert before["eval_contrast"] > 0
    assert trainer.train()["eval_contrast"] == evaluations(tmp_path)[5]["eval_contrast"]
    with pytest.raises(ValueError, match="`eval_dataset`: `contrast` is 'pairs', and the data has no pairs"):
        CSRTrainer(make_head(), arguments, [sources[0]], embeddings[:100])


def test_rows_are_taken_in_every_form_that_the_training_takes(tmp_path, embeddings):
    args, rows = CSRTrainingArguments(**SETTINGS, output_dir=str(tmp_path)), embeddings[:60]
    forms = [rows, torch.from_numpy(rows), Dataset.from_dict({"embedding": rows.tolist()}), [rows[:20], rows[20:]]]
    losses = [CSRTrainer(make_head(), args, embeddings, form).evaluate()["eval_loss"] for form in forms]
    assert losses == [losses[0]] * 4


def test_both_modalities_are_evaluated(tmp_path, embeddings):
    sources = [Source.from_arrays({"image": rows[:150], "text": rows[150:]}) for rows in np.split(embeddings, 2)]
    head = make_head(modalities=["image", "text"], hidden_dim=64, dead_threshold=3)
    head.modality_last_nonzero[0, :9] = 4
    args = CSRTrainingArguments(output_dir=str(tmp_path))
    figures = CSRTrainer(head, args, sources[:1], sources[1:]).evaluate()
    assert (figures["eval_dead_fraction_image"], figures["eval_dead_fraction_text"]) == (9 / 64, 0)
    assert figures["eval_auxiliary_image"] > 0


def test_what_cannot_be_evaluated_is_refused(tmp_path, embeddings):
    head = CSRModel(CSRConfig(input_dim=12, hidden_dim=16, k=4))
    args = CSRTrainingArguments(**SETTINGS, eval_steps=5, output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"`eval_steps` \(5\) needs an `eval_dataset`"):
        CSRTrainer(head, args, embeddings)
    with pytest.raises(ValueError, match="`eval_dataset`: embeddings are 11 wide"):
        CSRTrainer(head, args, embeddings, embeddings[:, :11])
    with pytest.raises(ValueError, match=r"`eval_dataset` has 1 rows. Hold out 2 at least"):
        CSRTrainer(head, args, embeddings, embeddings[:1])
    with pytest.raises(ValueError, match=r"`eval_dataset`: .*NaN or infinity"):
        CSRTrainer(head, args, embeddings, np.full((4, 12), np.nan, np.float32))
    with pytest.raises(ValueError, match="`eval_dataset` is missing"):
        CSRTrainer(head, CSRTrainingArguments(**SETTINGS, output_dir=str(tmp_path)), embeddings).evaluate()
    with pytest.raises(ValueError, match=r"`metric_for_best_model` \('recal'\) is not evaluated. .*neighbor_recall"):
        make_trainer(tmp_path, embeddings, metric_for_best_model="recal").train()
    for name, value in (("load_best_model_at_end", True), ("early_stopping_patience", 3)):
        with pytest.raises(ValueError, match=rf"`{name}` \({value}\) needs evaluations. Set `eval_steps`"):
            CSRTrainingArguments(**{name: value})


def test_trackers_group_the_figures_of_evaluations(tmp_path, embeddings):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_trainer(tmp_path, embeddings, report_to=["tensorboard"], max_steps=10).train()
    folder = next((tmp_path / "trackers").rglob("events.out.tfevents.*")).parent
    found = events.EventAccumulator(str(folder)).Reload()
    assert [(event.step, pytest.approx(event.value)) for event in found.Scalars("eval/loss")] == [
        (step, line["eval_loss"]) for step, line in evaluations(tmp_path).items()
    ]


TWO_PROCESSES = """
from csr_hf import CSRTrainerCallback
from tests.training.test_evaluation import judge_by, make_trainer


class Stop(CSRTrainerCallback):
    def on_evaluate(self, args, state, control, *, metrics, **kwargs):
        # The first process decides, whatever another one wants.
        control.should_training_stop = state.global_step == (30 if state.is_world_process_zero else 10)


settings = {"per_device_train_batch_size": 32, "gamma": 0.3, "balance": 0.2, "load_best_model_at_end": True}
trainer = make_trainer(folder / "run", embeddings, callbacks=[Stop()], **settings)
rank = trainer.accelerator.process_index
evaluated = trainer.evaluate()
judge_by(trainer, [0.1, 0.5, 0.2, 0.9, 0.3, 0.4])
first = trainer.train(until=22)
resumed = make_trainer(folder / "run", embeddings, callbacks=[Stop()], **settings)
judge_by(resumed, [0.3, 0.4])
last = resumed.train(resume_from_checkpoint=True)
whole = make_trainer(folder / "whole", embeddings, callbacks=[Stop()], **settings)
judge_by(whole, [0.1, 0.5, 0.2, 0.9, 0.3, 0.4])
whole.train()
torch.save([resumed.model.state_dict(), whole.model.state_dict()], folder / f"weights-{rank}")
(folder / f"figures-{rank}.json").write_text(json.dumps([evaluated, last]))
"""


@pytest.mark.slow
def test_two_processes_evaluate_and_stop_as_one(tmp_path, embeddings):
    np.save(tmp_path / "embeddings.npy", embeddings)
    run = start(tmp_path, TWO_PROCESSES)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    weights = [torch.load(tmp_path / f"weights-{rank}") for rank in (0, 1)]
    assert all(equal(weights[0][0], each) for each in (weights[0][1], *weights[1]))
    assert equal(weights[0][0], load_checkpoint(tmp_path / "run" / "checkpoints" / "step_0000020").weights)
    figures = [json.loads((tmp_path / f"figures-{rank}.json").read_text()) for rank in (0, 1)]
    assert figures[0][0] == figures[1][0]
    assert (figures[0][1]["steps"], figures[0][1]["best_step"]) == (30, 20)
    assert list(evaluations(tmp_path / "run")) == [5, 10, 15, 20, 25, 30]
    alone = make_trainer(tmp_path / "alone", embeddings, gamma=0.3, balance=0.2).evaluate()
    assert figures[0][0] == pytest.approx(alone, rel=1e-4)
