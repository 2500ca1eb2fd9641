import json

import numpy as np
import pytest
import torch

from csr_hf import CSRModel, CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from csr_hf.training.checkpoints import list_checkpoints, load_checkpoint
from csr_hf.training.head_metrics import measure_head
from csr_hf.training.trainer import NonFiniteLossError
from tests.conftest import make_head

EVERYTHING = {"gamma": 0.1, "distillation": 0.2, "balance": 0.1, "k_start": 9}


def make_trainer(folder, embeddings, head=None, **arguments):
    settings = {"max_steps": 40, "per_device_train_batch_size": 64, "save_steps": 10, "logging_steps": 5, **arguments}
    head = make_head(dead_threshold=300) if head is None else head
    return CSRTrainer(head, CSRTrainingArguments(**settings, output_dir=str(folder)), embeddings)


def state(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_explains_the_data(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, max_steps=300, learning_rate=1e-2)
    before = measure_head(trainer.model, trainer.batches.rows)["explained_variance"]
    figures = trainer.train()
    assert figures["explained_variance"] > 0.75 > before + 0.3
    assert figures["steps"] == 300
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]
    assert [line["step"] for line in log] == list(range(5, 301, 5))
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert {"reconstruction_5", "explained_variance", "dead_fraction", "learning_rate"} <= log[0].keys()


def test_measured_figures_follow_their_definitions(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings)
    figures = measure_head(trainer.model, trainer.batches.rows)
    values, indices = trainer.model.encode(torch.from_numpy(embeddings))
    left = trainer.model.decode(values, indices).detach().numpy() - embeddings
    explained = 1 - (left**2).sum() / ((embeddings - embeddings.mean(0)) ** 2).sum()
    assert figures["explained_variance"] == pytest.approx(explained, rel=1e-5)
    share = torch.bincount(indices[values > 0], minlength=40).double() / len(embeddings)
    assert figures["postings_per_document"] == pytest.approx(float((share**2).sum()), rel=1e-5)
    assert figures["active_latents"] == pytest.approx(float(share.sum()), rel=1e-5)
    assert figures["most_used_latent"] == pytest.approx(float(share.max()), rel=1e-5)
    assert figures["postings_per_document_if_even"] == 25 / 40
    ratio = np.linalg.norm(embeddings.mean(0)) / np.sqrt(embeddings.var(0).sum())
    assert figures["mean_to_spread"] == pytest.approx(ratio, rel=1e-4)


def test_interrupted_run_ends_with_the_same_bits(tmp_path, embeddings):
    whole = make_trainer(tmp_path / "whole", embeddings, **EVERYTHING)
    whole.train()
    cut = make_trainer(tmp_path / "cut", embeddings, **EVERYTHING)
    cut.train(until=25)
    assert not equal(state(cut), state(whole))
    resumed = make_trainer(tmp_path / "cut", embeddings, head=make_head(dead_threshold=300), **EVERYTHING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.step == 40
    assert equal(state(resumed), state(whole))
    moments = [trainer.optimizer.state_dict()["state"] for trainer in (resumed, whole)]
    assert all(equal(moments[0][number], moments[1][number]) for number in moments[1])
    # Steps 25 to 40 were logged twice along the way.
    assert (tmp_path / "cut" / "training_log.jsonl").read_text() == (
        tmp_path / "whole" / "training_log.jsonl"
    ).read_text()
    # Clocks were running: some latents fire rarely in this data.
    assert len(set(whole.model.stats_last_nonzero.tolist())) > 1


def test_resuming_without_a_checkpoint_starts_anew(tmp_path, embeddings):
    first, second = make_trainer(tmp_path / "a", embeddings), make_trainer(tmp_path / "b", embeddings)
    first.train()
    second.train(resume_from_checkpoint=True)
    assert equal(state(first), state(second))


def test_resuming_a_finished_run_takes_no_step(tmp_path, embeddings):
    first = make_trainer(tmp_path, embeddings)
    figures = first.train()
    again = make_trainer(tmp_path, embeddings)
    assert again.train(resume_from_checkpoint=True)["steps"] == 40
    assert equal(state(first), state(again))
    assert measure_head(again.model, again.batches.rows)["explained_variance"] == figures["explained_variance"]


def test_log_that_an_interruption_cut_short_is_mended(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train(until=10)
    with (tmp_path / "training_log.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')
    make_trainer(tmp_path, embeddings).train(resume_from_checkpoint=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "training_log.jsonl").open()]
    assert steps == list(range(5, 41, 5))


def test_run_that_starts_anew_outlives_older_checkpoints(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train()
    anew = make_trainer(tmp_path, embeddings, seed=1)
    anew.train(until=10)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_0000010"]
    weights = load_checkpoint(tmp_path / "checkpoints" / "step_0000010").weights
    assert equal(weights, state(anew))


def test_seed_decides_the_order_of_the_data(tmp_path, embeddings):
    trainers = [make_trainer(tmp_path / str(n), embeddings, seed=seed) for n, seed in enumerate((0, 0, 1))]
    for trainer in trainers:
        trainer.train()
    assert equal(state(trainers[0]), state(trainers[1]))
    assert not equal(state(trainers[0]), state(trainers[2]))


def test_every_row_is_seen_once_an_epoch(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings[:100])
    batches = np.concatenate([trainer.batches.at(step).embeddings.numpy() for step in range(25)])
    for epoch in range(16):
        rows = batches[epoch * 100 : epoch * 100 + 100]
        assert np.array_equal(np.sort(rows, axis=0), np.sort(embeddings[:100], axis=0))


def test_several_arrays_are_one_data_set(tmp_path, embeddings):
    parts = [embeddings[:100].astype(np.float16), embeddings[100:101].astype(np.float16), embeddings[101:]]
    trainer = make_trainer(tmp_path, parts)
    rows = np.array([599, 0, 100, 99, 101, 100])
    expected = np.concatenate([part.astype(np.float32) for part in parts])[rows]
    assert np.array_equal(trainer.batches.rows.rows(rows), expected)


def test_other_arguments_or_data_cannot_be_resumed(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train()
    for other, what in (
        (make_trainer(tmp_path, embeddings, learning_rate=1e-5), "arguments"),
        (make_trainer(tmp_path, embeddings[:500]), "data"),
        (make_trainer(tmp_path, embeddings[::-1].copy()), "data"),
        (make_trainer(tmp_path, embeddings, head=make_head(k=4)), "head"),
        (make_trainer(tmp_path, embeddings, head=make_head(hidden_dim=50)), "head"),
    ):
        with pytest.raises(ValueError, match=rf"belongs to a run with other arguments or data \({what}\)"):
            other.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        make_trainer(tmp_path, embeddings).train(resume_from_checkpoint=tmp_path)


def test_dead_clock_counts_examples(tmp_path, embeddings):
    head = make_head(dead_threshold=300)
    with torch.no_grad():
        head.latent_bias[4] = -100
    trainer = make_trainer(tmp_path, embeddings, head=head, max_steps=6)
    figures = trainer.train()
    assert head.stats_last_nonzero[4] == 6 * 64
    assert (head.stats_last_nonzero >= 0).all()
    assert figures["dead_fraction"] == pytest.approx(float((head.stats_last_nonzero > 300).float().mean()))
    assert figures["dead_fraction"] > 0


def test_checkpoints_are_pruned_and_unfinished_ones_ignored(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings)
    trainer.train()
    folder = tmp_path / "checkpoints"
    assert [path.name for path in list_checkpoints(folder)] == ["step_0000030", "step_0000040"]
    (folder / "step_0000050").mkdir()
    assert list_checkpoints(folder)[-1].name == "step_0000040"
    _, weights, _, record, _ = load_checkpoint(list_checkpoints(folder)[-1], ["optimizer", "scheduler"])
    assert equal(weights, state(trainer))
    assert record["step"] == 40
    assert equal(CSRModel.from_pretrained(folder / "step_0000040").state_dict(), state(trainer))


def test_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path, embeddings, monkeypatch):
    trainer = make_trainer(tmp_path, embeddings)
    trainer.train(until=10)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    trainer.state.global_step = 11
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000010"]


def test_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings)
    trainer.train(until=12)
    with torch.no_grad():
        trainer.model.pre_bias[0] = float("inf")
    with pytest.raises(NonFiniteLossError, match=r"is not finite at step 12: .*step_0000010.*Lower learning_rate"):
        trainer.train()
    kept = CSRModel.from_pretrained(tmp_path / "checkpoints" / "step_0000010")
    assert all(torch.isfinite(parameter).all() for parameter in kept.parameters())


@pytest.mark.parametrize("learning_rate", [1e37, 1e25])
def test_huge_learning_rate_stops_before_a_broken_checkpoint(tmp_path, embeddings, learning_rate):
    settings = {"learning_rate": learning_rate, "save_steps": 1, "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
    trainer = make_trainer(tmp_path, embeddings, **settings)
    with pytest.raises(
        NonFiniteLossError, match=r"(a weight|the loss|a gradient) is not finite at step \d+: .*heckpoint"
    ):
        trainer.train()
    for path in list_checkpoints(tmp_path / "checkpoints"):
        assert all(torch.isfinite(parameter).all() for parameter in CSRModel.from_pretrained(path).parameters())


def test_weights_that_are_not_finite_are_not_saved(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings)
    trainer.train(until=10)
    with torch.no_grad():
        trainer.model.encoder.weight[3, 4] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"a weight is not finite at step 10: .*step_0000010"):
        trainer.save_checkpoint()
    assert torch.isfinite(CSRModel.from_pretrained(tmp_path / "checkpoints" / "step_0000010").encoder.weight).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_named(tmp_path, embeddings, bad):
    embeddings[17, 2] = bad
    with pytest.raises(ValueError, match="array 0, row 17 holds NaN or infinity"):
        make_trainer(tmp_path, embeddings)


def test_unusable_embeddings_are_refused(tmp_path, embeddings):
    with pytest.raises(ValueError, match="the data set is empty"):
        make_trainer(tmp_path, embeddings[:0])
    with pytest.raises(ValueError, match=r"embeddings are 11 wide, the head takes `input_dim` 12"):
        make_trainer(tmp_path, embeddings[:, :11])
    with pytest.raises(ValueError, match="embeddings differ in width"):
        make_trainer(tmp_path, [embeddings, embeddings[:, :11]])
    with pytest.raises(ValueError, match=r"has the shape \(12,\)\. Embeddings must have the shape \(n, input_dim\)"):
        make_trainer(tmp_path, embeddings[0])


def test_half_precision_heads_are_refused(tmp_path, embeddings):
    with pytest.raises(ValueError, match=r"weights are torch.float16, .* Load it with dtype=torch.float32"):
        make_trainer(tmp_path, embeddings, head=make_head().half())


def test_fp16_on_the_cpu_is_refused(tmp_path, embeddings, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ValueError, match=r"`mixed_precision` fp16 needs a GPU.* Set it to bf16 or no"):
        make_trainer(tmp_path, embeddings, mixed_precision="fp16")


def test_mixed_precision_trains(tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, mixed_precision="bf16", max_steps=100, learning_rate=1e-2)
    before = measure_head(trainer.model, trainer.batches.rows)["explained_variance"]
    assert trainer.train()["explained_variance"] > before + 0.2
    assert trainer.model.dtype == torch.float32


def test_scale_of_the_embeddings_changes_the_biases_alone(tmp_path, embeddings):
    heads = []
    for scale in (1, 64):
        head = make_head(dead_threshold=300)
        with torch.no_grad():
            head.pre_bias.mul_(scale), head.latent_bias.mul_(scale)
        trainer = make_trainer(tmp_path / str(scale), embeddings * scale, head=head, gamma=0.1, balance=0.2)
        trainer.train()
        heads.append(head)
    plain, scaled = heads
    assert torch.equal(plain.encoder.weight, scaled.encoder.weight)
    assert torch.equal(64 * plain.pre_bias, scaled.pre_bias)
    assert torch.equal(64 * plain.latent_bias, scaled.latent_bias)
    # A checkpoint is a head for the embeddings as they are, too.
    kept = CSRModel.from_pretrained(tmp_path / "64" / "checkpoints" / "step_0000040")
    assert torch.equal(kept.pre_bias, scaled.pre_bias)
    again = CSRModel.from_pretrained(trainer.save_checkpoint())
    assert torch.equal(again.pre_bias, scaled.pre_bias)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_coefficients_serve_embeddings_of_any_scale_and_mean(tmp_path, embeddings, scale):
    shifted = (embeddings + 0.5) * np.float32(scale)
    head = make_head(dead_threshold=300)
    with torch.no_grad():
        head.pre_bias.zero_(), head.latent_bias.zero_()
    figures = make_trainer(tmp_path, shifted, head=head, max_steps=300, learning_rate=1e-2).train()
    assert figures["explained_variance"] > 0.75


def test_batches_that_accumulate_are_one_batch(tmp_path, embeddings):
    settings = {"max_steps": 10, "gamma": 0.1, "distillation": 0.2}
    whole = make_trainer(tmp_path / "whole", embeddings, **settings)
    parts = make_trainer(
        tmp_path / "parts", embeddings, per_device_train_batch_size=16, gradient_accumulation_steps=4, **settings
    )
    assert whole.batch_size == parts.batch_size == 64
    for trainer in (whole, parts):
        trainer.train()
    for name, tensor in state(whole).items():
        torch.testing.assert_close(state(parts)[name], tensor, atol=1e-4, rtol=1e-3)


def test_pairs_stand_behind_their_rows(tmp_path, embeddings):
    source = Source.from_arrays({"anchor": embeddings[:300], "positive": embeddings[300:]})
    batch = make_trainer(tmp_path, [source], gamma=0.1, contrast="pairs").batches.at(0)
    assert batch.n == 64
    rows = {row.tobytes(): number for number, row in enumerate(embeddings)}
    numbers = [rows[row.numpy().tobytes()] for row in batch.embeddings]
    assert numbers[64:] == [number + 300 for number in numbers[:64]]


def test_contrast_that_the_data_cannot_give_is_refused(tmp_path, embeddings):
    for contrast in ("pairs", "labels"):
        with pytest.raises(ValueError, match=f"`contrast` is '{contrast}', and the data has no {contrast}"):
            make_trainer(tmp_path, embeddings, gamma=0.1, contrast=contrast)


def test_trackers_get_the_figures_offline(tmp_path, embeddings):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_trainer(tmp_path, embeddings, report_to=["tensorboard"]).train()
    folder = next((tmp_path / "trackers").rglob("events.out.tfevents.*")).parent
    found = events.EventAccumulator(str(folder)).Reload()
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").open()]
    assert [(event.step, pytest.approx(event.value)) for event in found.Scalars("loss")] == [
        (line["step"], line["loss"]) for line in log
    ]


def test_trackers_that_are_unknown_or_missing_are_named(tmp_path, embeddings):
    with pytest.raises(ValueError, match=r"`report_to` \('tensorbord'\) is no tracker of Accelerate.*tensorboard"):
        make_trainer(tmp_path, embeddings, report_to=["tensorbord"])
    with pytest.raises(ImportError, match="`report_to` mlflow needs the package mlflow: pip install mlflow"):
        make_trainer(tmp_path, embeddings, report_to=["mlflow"])


def test_logging_and_saving_may_change_on_resuming(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train(until=20)
    other = make_trainer(tmp_path, embeddings, logging_steps=7, save_steps=13, save_total_limit=1)
    assert other.train(resume_from_checkpoint=True)["steps"] == 40


def test_a_run_may_be_resumed_in_another_folder(tmp_path, embeddings):
    make_trainer(tmp_path / "first", embeddings).train(until=20)
    (tmp_path / "first").rename(tmp_path / "moved")
    assert make_trainer(tmp_path / "moved", embeddings).train(resume_from_checkpoint=True, until=0)["steps"] == 20


def test_clocks_of_modalities_count_their_own_examples(tmp_path, embeddings):
    """Rows are images, their positives texts; without the contrast of pairs both are rows of their own."""
    source = Source.from_arrays({"image": embeddings[:300], "text": embeddings[300:]})
    for gamma in (0.0, 0.1):
        head = make_head(modalities=["image", "text"], hidden_dim=64)
        head.encoder.weight.data[0] = 0
        head.latent_bias.data[0] = -100
        arguments = CSRTrainingArguments(
            output_dir=str(tmp_path / str(gamma)),
            max_steps=6,
            per_device_train_batch_size=50,
            gamma=gamma,
            contrast="pairs",
            save_steps=3,
            beta=0,
        )
        trainer = CSRTrainer(head, arguments, [source])
        figures = trainer.train()
        seen = [int(head.modality_last_nonzero[number, 0]) for number in (0, 1)]
        # A whole epoch is 300 of each; of 300 rows chosen from both, about a half are images.
        assert sum(seen) == int(head.stats_last_nonzero[0]) == (600 if gamma else 300)
        assert (seen == [300, 300]) if gamma else (100 < seen[0] < 200)
        assert figures["dead_fraction_image"] == figures["dead_fraction_text"] == 0
        assert int(head.modality_last_nonzero[:, 1:].min()) == 0
        half = CSRModel.from_pretrained(next((tmp_path / str(gamma) / "checkpoints").glob("*3")))
        assert sum(int(half.modality_last_nonzero[number, 0]) for number in (0, 1)) == sum(seen) / 2


def test_a_folder_to_write_is_needed(embeddings):
    with pytest.raises(ValueError, match=r"`args.output_dir` is missing: CSRTrainingArguments\(output_dir="):
        CSRTrainer(make_head(), CSRTrainingArguments(), embeddings)


def test_every_row_counts_when_a_training_goes_on(tmp_path, embeddings):
    """Of 3,000 rows any changed one is noticed, in arrays of any type and in every role."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((3000, 12)).astype(np.float16)
    settings = {"max_steps": 2, "save_steps": 1}
    pairs = {"gamma": 0.1, "contrast": "pairs", **settings}
    make_trainer(tmp_path / "a", data, **settings).train(until=1)
    make_trainer(tmp_path / "b", [Source.from_arrays({"anchor": data, "positive": data})], **pairs).train(until=1)
    for row in rng.integers(0, 3000, 5):
        changed = data.copy()
        changed[row, 3] += 1
        source = Source.from_arrays({"anchor": data, "positive": changed})
        for other in (
            make_trainer(tmp_path / "a", changed, **settings),
            make_trainer(tmp_path / "b", [source], **pairs),
        ):
            with pytest.raises(ValueError, match=r"other arguments or data \(data\)"):
                other.resume(True)
    make_trainer(tmp_path / "a", data.astype(np.float64), **settings).resume(True)


def damage(path):
    """Ways in which a file gets lost or changed."""
    content = path.read_bytes()
    yield "truncated", lambda: path.write_bytes(content[: len(content) // 2])
    yield "empty", lambda: path.write_bytes(b"")
    yield "missing", path.unlink
    middle = len(content) // 2
    yield "flipped", lambda: path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, embeddings, caplog, file):
    caplog.set_level("WARNING")
    first = make_trainer(tmp_path, embeddings)
    first.train()
    path = tmp_path / "checkpoints" / "step_0000040" / file
    for how, apply in damage(path):
        apply()
        caplog.clear()
        again = make_trainer(tmp_path, embeddings)
        again.resume(True)
        assert again.step == 30, how
        assert f"passed over a checkpoint: {path if file != 'trainer_state.json' else path.parent}" in caplog.text
        with pytest.raises(ValueError, match=r"step_0000040.* (is damaged|is missing|is not a checkpoint)"):
            again.resume(path.parent)
    # It goes on to the same bits, and the damaged one is written anew.
    again.train()
    assert equal(state(first), state(again))
    assert list_checkpoints(tmp_path / "checkpoints")[-1] == path.parent
    load_checkpoint(path.parent, ["optimizer", "scheduler"])


def test_without_a_whole_checkpoint_nothing_is_taken_for_one(tmp_path, embeddings):
    make_trainer(tmp_path, embeddings).train()
    for path in list_checkpoints(tmp_path / "checkpoints"):
        (path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* is whole: step_0000040, step_0000030\. Start over with"
    ):
        make_trainer(tmp_path, embeddings).train(resume_from_checkpoint=True)


def test_another_head_is_not_trained_beside_the_figures_of_the_first(tmp_path, embeddings):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "index").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        ValueError, match=r"holds results\.json, index of an earlier head\. Choose another `output_dir`"
    ):
        make_trainer(tmp_path, embeddings).train()
    assert sorted(tmp_path.iterdir()) == before
