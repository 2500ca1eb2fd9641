"""Hooks into a training: when they are called, with what, and what they may do."""

import pytest
import torch

from csr_hf import CSRTrainerCallback
from csr_hf.training.callbacks import CSRTrainerControl, CSRTrainerState
from tests.conftest import make_head
from tests.training.test_evaluation import evaluations, make_trainer, saved
from tests.training.test_trainer import equal, state


class Recorder(CSRTrainerCallback):
    """Writes down what it is called with."""

    def __init__(self):
        self.calls = []

    def note(self, hook, args, state, model, figures):
        self.calls.append((hook, state.global_step, figures))
        self.args, self.state, self.model = args, state, model

    def on_log(self, args, state, control, *, model, logs, **kwargs):
        self.note("on_log", args, state, model, logs)

    def on_evaluate(self, args, state, control, *, model, metrics, **kwargs):
        self.note("on_evaluate", args, state, model, metrics)

    def on_save(self, args, state, control, *, model, checkpoint, **kwargs):
        self.note("on_save", args, state, model, checkpoint)

    def on_train_end(self, args, state, control, *, model, metrics, **kwargs):
        self.note("on_train_end", args, state, model, metrics)


def test_hooks_are_called_in_order_with_what_happened(tmp_path, embeddings):
    recorder = Recorder()
    settings = {"max_steps": 20, "eval_steps": 10, "logging_steps": 10, "save_steps": 10}
    trainer = make_trainer(tmp_path, embeddings, callbacks=[recorder], **settings)
    figures = trainer.train()
    assert [call[:2] for call in recorder.calls] == [
        *[(hook, step) for step in (10, 20) for hook in ("on_log", "on_evaluate", "on_save")],
        ("on_train_end", 20),
    ]
    logs, metrics, checkpoint = (call[2] for call in recorder.calls[:3])
    assert logs["loss"] > 0
    assert evaluations(tmp_path)[10] == {"step": 10, **metrics}
    assert checkpoint == tmp_path / "checkpoints" / "step_0000010"
    assert recorder.calls[-1][2] == figures
    assert (recorder.args, recorder.state, recorder.model) == (trainer.args, trainer.state, trainer.model)
    history = recorder.state.log_history
    assert [(line["step"], "loss" in line, "eval_loss" in line) for line in history] == [
        (step, kind == "train", kind == "eval") for step in (10, 20) for kind in ("train", "eval")
    ]
    assert (recorder.state.max_steps, recorder.state.is_world_process_zero) == (20, True)


def test_resumed_training_knows_its_history(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train(until=20)
    recorder = Recorder()
    make_trainer(tmp_path, embeddings, callbacks=[recorder]).train(resume_from_checkpoint=True)
    assert [line["step"] for line in recorder.state.log_history] == [5, 10, 15, 20, 20, 25, 30, 35, 40, 40]
    # An interruption is no end.
    ended = Recorder()
    make_trainer(tmp_path / "other", embeddings, callbacks=[ended]).train(until=20)
    assert "on_train_end" not in [call[0] for call in ended.calls]


def test_callback_sees_the_head_for_embeddings_as_they_are(tmp_path, embeddings):
    class Keep(CSRTrainerCallback):
        def on_save(self, args, state, control, *, model, **kwargs):
            self.bias = model.pre_bias.detach().clone()

    keep = Keep()
    trainer = make_trainer(tmp_path, embeddings * 64, callbacks=[keep], max_steps=10)
    assert trainer.batches.scale > 1
    trainer.train()
    assert torch.equal(keep.bias, trainer.model.pre_bias)


@pytest.mark.parametrize("returns", [True, False])
def test_callback_stops_the_training(tmp_path, embeddings, returns):
    class Stop(CSRTrainerCallback):
        def on_evaluate(self, args, state, control, *, metrics, **kwargs):
            assert metrics["eval_explained_variance"] < 1
            if state.global_step < 15:
                return None
            if returns:
                return CSRTrainerControl(should_training_stop=True)
            control.should_training_stop = True

    recorder = Recorder()
    trainer = make_trainer(tmp_path, embeddings, callbacks=[Stop, recorder])
    assert trainer.train()["steps"] == 15
    assert recorder.calls[-1][:2] == ("on_train_end", 15)
    # Until there it was the same training.
    plain = make_trainer(tmp_path / "plain", embeddings)
    plain.train(until=15)
    assert equal(state(trainer), state(plain))


def test_callback_asks_for_an_evaluation_and_a_checkpoint(tmp_path, embeddings):
    class Ask(CSRTrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            control.should_evaluate = control.should_save = state.global_step == 4

    make_trainer(
        tmp_path, embeddings, callbacks=[Ask()], max_steps=12, eval_steps=10, logging_steps=2, save_steps=0
    ).train()
    assert list(evaluations(tmp_path)) == [4, 10, 12]
    assert saved(tmp_path) == [4]


def test_errors_of_callbacks_end_the_training(tmp_path, embeddings):
    class Broken(CSRTrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise RuntimeError("disk is on fire")

    head = make_head(dead_threshold=300)
    trainer = make_trainer(tmp_path, embeddings * 64, head=head, callbacks=[Broken()])
    with pytest.raises(RuntimeError, match="disk is on fire"):
        trainer.train()
    # The head is handed back for embeddings as they are, as it was saved.
    assert trainer.step == 10
    weights = make_trainer(tmp_path / "other", embeddings * 64)
    weights.train(until=10)
    assert equal(state(trainer), state(weights))


def test_callbacks_that_would_do_nothing_are_refused(tmp_path, embeddings):
    class Misspelt(CSRTrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    class Wrong(CSRTrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            return True

    with pytest.raises(ValueError, match=r"`on_step_end` of Misspelt would never be called. Hooks are: on_log, "):
        make_trainer(tmp_path, embeddings, callbacks=[Misspelt()])
    with pytest.raises(ValueError, match="`callbacks` holds str, which is no CSRTrainerCallback"):
        make_trainer(tmp_path, embeddings, callbacks=["tensorboard"])
    with pytest.raises(ValueError, match=r"`callbacks` \(Misspelt\) must be a list. Write \[callback\]"):
        make_trainer(tmp_path, embeddings, callbacks=Misspelt())
    with pytest.raises(ValueError, match=r"`on_log` of Wrong returned True. Return the control, or nothing"):
        make_trainer(tmp_path, embeddings, callbacks=[Wrong]).train()
    with pytest.raises(AttributeError):
        CSRTrainerControl().should_stop = True


def test_state_counts_evaluations_since_the_best():
    noted = CSRTrainerState()
    counters = []
    for step, value in enumerate([0.3, 0.2, 0.2, float("nan"), 0.1]):
        noted.global_step = step
        noted.note(value, greater_is_better=False)
        counters.append((noted.best_global_step, noted.early_stopping_patience_counter))
    assert counters == [(0, 0), (1, 0), (1, 1), (1, 2), (4, 0)]
    other = CSRTrainerState()
    other.restore(noted.recorded(), None)
    assert (other.best_metric, other.best_global_step, other.early_stopping_patience_counter) == (0.1, 4, 0)
