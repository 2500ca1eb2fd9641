"""Real runs of two and four processes (gloo) beside one process with their batches together."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from csr_hf import CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.plumbing.distributed import wait_for_files
from csr_hf.training.checkpoints import list_checkpoints
from tests.conftest import make_head

ROOT = Path(__file__).parents[2]
EVERYTHING = {"gamma": 0.3, "distillation": 0.5, "balance": 0.2, "k_start": 9}

COMMON = """
import atexit, json, os, sys
from pathlib import Path
import numpy as np
import torch
from csr_hf import CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from tests.conftest import make_head
from tests.plumbing.test_distributed import LONG, make_trainer

folder = Path(sys.argv[1])
embeddings = np.load(folder / "embeddings.npy")


def tell_whether_in_group():  # Registered first, so called last.
    (folder / f"in-group-{os.environ['RANK']}").write_text(str(torch.distributed.is_initialized()))


atexit.register(tell_whether_in_group)


def save_weights(name, *size, **settings):
    trainer = make_trainer(folder / name, embeddings, *size, **LONG, **settings)
    trainer.train()
    torch.save(trainer.model.state_dict(), folder / f"{name}-{trainer.accelerator.process_index}")
"""

LONG = {"max_steps": 50, "save_steps": 0, "contrast": "pairs"}

TRAIN = """
trainer = make_trainer(folder / "whole", embeddings, 32)
rank = trainer.accelerator.process_index
assert trainer.accelerator.num_processes == 2

for contrast in ("self", "pairs", "labels"):
    other = make_trainer(folder / f"gradients-{rank}", embeddings, 32, contrast=contrast)
    other.model.stats_last_nonzero[:6] = 10**6
    other.accelerator.backward(other.loss(other.batches.at(3), 5).loss)
    gradients = {name: parameter.grad for name, parameter in other.model.named_parameters()}
    torch.save(gradients, folder / f"{contrast}-{rank}")

trainer.train()
torch.save(trainer.model.state_dict(), folder / f"whole-{rank}")
cut = make_trainer(folder / "cut", embeddings, 32)
cut.train(until=13)
resumed = make_trainer(folder / "cut", embeddings, 32)
resumed.train(resume_from_checkpoint=True)
torch.save(resumed.model.state_dict(), folder / f"resumed-{rank}")
save_weights("whole_batch", 32)
save_weights("accumulated", 8, gradient_accumulation_steps=4)

from csr_hf.plumbing.distributed import from_first_process, gather_objects, sum_over_processes


def refuse():
    raise ValueError(f"refused by {rank}")


told = {"first": from_first_process(lambda: rank), "all": gather_objects({"rank": rank})}
try:
    from_first_process(refuse)
except ValueError as error:
    told["refusal"] = str(error)
group = torch.distributed.distributed_c10d._get_default_group()
told["timeout"] = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
told["sum"] = float(sum_over_processes(torch.tensor(float(rank + 1))))
(folder / f"told-{rank}.json").write_text(json.dumps(told))
"""

TRAIN_TOO = """
world = int(os.environ["WORLD_SIZE"])
save_weights("whole_batch", 64 // world)
save_weights("accumulated", 64 // world // 4, gradient_accumulation_steps=4)
"""


def make_trainer(folder, embeddings, batch_size, **settings):
    labels = np.arange(300) % 11
    labels[:150] = -1  # Half of the rows have no class: processes hold different numbers of rows that count.
    data = [Source.from_arrays({"anchor": embeddings[:300], "positive": embeddings[300:]}, labels=labels)]
    arguments = {"max_steps": 20, "save_steps": 10, "logging_steps": 1, **EVERYTHING, **settings}
    head = make_head(dead_threshold=300)
    with torch.no_grad():
        head.latent_bias[6:9] = -2  # They fire rarely or never: clocks run.
    args = CSRTrainingArguments(per_device_train_batch_size=batch_size, output_dir=str(folder), **arguments)
    return CSRTrainer(head, args, data)


def environment_of(**more):
    """Variables of a worker: those of this machine, on its CPU, and one thread each."""
    taken = ("ACCELERATE_", "MASTER_", "WORLD_SIZE", "RANK", "LOCAL_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    own = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    return {**kept, **own, **more}


def start(folder, script, processes=2):
    (folder / "worker.py").write_text(COMMON + script)
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    return subprocess.Popen(
        [*launch, str(folder / "worker.py"), str(folder)],
        env=environment_of(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    np.save(folder / "embeddings.npy", rng.standard_normal((600, 12)).astype(np.float32))
    run = start(folder, TRAIN)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory):
    """Weights that one process learns in 50 steps, with contrast of pairs."""
    folder = tmp_path_factory.mktemp("alone")
    trainer = make_trainer(folder, np.load(finished / "embeddings.npy"), 64, **LONG)
    trainer.train()
    return trainer.model.state_dict()


def check_equal(weights, alone):
    assert len(set(alone["stats_last_nonzero"].tolist())) > 1
    for name, tensor in alone.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=0)


def log_of(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").open()]


@pytest.mark.parametrize("contrast", ["self", "pairs", "labels"])
def test_gradients_of_two_processes_are_those_of_one(finished, tmp_path, contrast):
    alone = make_trainer(tmp_path, np.load(finished / "embeddings.npy"), 64, contrast=contrast)
    alone.model.stats_last_nonzero[:6] = 10**6
    output = alone.loss(alone.batches.at(3), 5)
    assert {"contrast", "distillation", "balance", "auxiliary", "reconstruction_20"} <= output.parts.keys()
    output.loss.backward()
    first, second = (torch.load(finished / f"{contrast}-{rank}") for rank in (0, 1))
    for name, parameter in alone.model.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_two_processes_train_like_one_with_their_batches_together(finished, tmp_path):
    first, second = (torch.load(finished / f"whole-{rank}") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(set(first["stats_last_nonzero"].tolist())) > 1
    alone = make_trainer(tmp_path, np.load(finished / "embeddings.npy"), 64)
    alone.train()
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=0)
    curves = [[line["loss"] for line in log_of(folder)] for folder in (finished / "whole", tmp_path)]
    assert len(curves[0]) == 20
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


@pytest.mark.parametrize("name", ["whole_batch", "accumulated"])
def test_two_processes_learn_the_weights_of_one(finished, alone, name):
    for rank in (0, 1):
        check_equal(torch.load(finished / f"{name}-{rank}"), alone)


def test_accumulated_batches_are_one_batch(finished, alone, tmp_path):
    # Accelerate would divide the loss of such a process again.
    trainer = make_trainer(tmp_path, np.load(finished / "embeddings.npy"), 16, gradient_accumulation_steps=4, **LONG)
    trainer.train()
    check_equal(trainer.model.state_dict(), alone)


def test_what_the_launcher_accumulates_is_taken_over(finished, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    trainer = make_trainer(tmp_path, np.load(finished / "embeddings.npy"), 16, **LONG)
    assert trainer.args.gradient_accumulation_steps == 4 and trainer.batch_size == 64
    trainer.train()
    check_equal(trainer.model.state_dict(), alone)


def test_the_first_process_looks_for_all(finished):
    first, second = (json.loads((finished / f"told-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["first"] == 0 and first["all"] == [{"rank": 0}, {"rank": 1}] and first["sum"] == 3
    assert first["refusal"] == "refused by 0"


def test_processes_that_wait_do_not_time_out(finished):
    for rank in (0, 1):
        assert json.loads((finished / f"told-{rank}.json").read_text())["timeout"] >= 24 * 3600


def test_processes_leave_their_group_before_they_exit(finished):
    # A group that outlives the interpreter aborts now and then: "terminate called without an active exception".
    for rank in (0, 1):
        assert (finished / f"in-group-{rank}").read_text() == "False"


def test_processes_that_fail_do_not_wait_for_others(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.random.default_rng(0).standard_normal((600, 12)).astype(np.float32))
    run = start(tmp_path, 'make_trainer(folder / "whole", embeddings, 32)\nraise ValueError("on purpose")')
    output, _ = run.communicate()
    assert run.returncode == 1 and "ValueError: on purpose" in output
    assert {path.read_text() for path in tmp_path.glob("in-group-*")} == {"True"}


def test_files_may_show_late(tmp_path):
    path, writer = tmp_path / "late", threading.Timer(0.3, lambda: (tmp_path / "late").write_text("12345"))
    writer.start()
    wait_for_files({path: 5}, seconds=60)
    assert path.read_text() == "12345"
    writer.join()
    for sizes in ({path: 6}, {tmp_path / "never": 1}):
        with pytest.raises(OSError, match=r"does not show here after 0 s. All processes need the same folder"):
            wait_for_files(sizes, seconds=0.1)


@pytest.mark.slow
def test_four_processes_learn_the_weights_of_one(finished, alone, tmp_path):
    np.save(tmp_path / "embeddings.npy", np.load(finished / "embeddings.npy"))
    run = start(tmp_path, TRAIN_TOO, processes=4)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    for name in ("whole_batch", "accumulated"):
        for rank in range(4):
            check_equal(torch.load(tmp_path / f"{name}-{rank}"), alone)


def accelerate_launch(*flags, **variables):
    """Start what `accelerate launch` starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *flags],
        env=environment_of(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_machines_learn_the_weights_of_one_process(finished, alone, tmp_path):
    np.save(tmp_path / "embeddings.npy", np.load(finished / "embeddings.npy"))
    (tmp_path / "worker.py").write_text(COMMON + TRAIN_TOO)
    flags = ["--config_file", str(ROOT / "recipes/accelerate_configs/multi_node.yaml"), "--num_processes", "2"]
    flags += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    worker = [str(tmp_path / "worker.py"), str(tmp_path)]
    machines = [accelerate_launch(*flags, "--machine_rank", str(rank), *worker) for rank in (0, 1)]
    for machine in machines:
        output, _ = machine.communicate()
        assert machine.returncode == 0, output
    for name in ("whole_batch", "accumulated"):
        for rank in (0, 1):
            check_equal(torch.load(tmp_path / f"{name}-{rank}"), alone)


@pytest.mark.slow
def test_commands_run_on_two_machines(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32))
    training = {"max_steps": 6, "per_device_train_batch_size": 32, "save_steps": 3}
    recipe = {
        "data": {"source": str(tmp_path / "rows.npy")},
        "model": {"hidden_dim": 32, "k": 4},
        "training": training,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--config_file", str(ROOT / "recipes/accelerate_configs/multi_node.yaml"), "--num_processes", "2"]
    flags += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()), "--mixed_precision", "bf16"]
    command = ["-m", "csr_hf.cli", "run", str(tmp_path / "recipe.yaml"), "--output-dir", str(tmp_path / "run")]
    machines = [accelerate_launch(*flags, "--machine_rank", str(rank), *command, "--no-progress") for rank in (0, 1)]
    for machine in machines:
        output, _ = machine.communicate()
        assert machine.returncode == 0, output
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert resolved["training"]["mixed_precision"] == "bf16"
    assert resolved["results"]["steps"] == 6
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    assert (tmp_path / "run" / "results.json").is_file()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_resume_with_the_same_bits(finished):
    for rank in (0, 1):
        whole, resumed = torch.load(finished / f"whole-{rank}"), torch.load(finished / f"resumed-{rank}")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


KILLED = """
trainer = make_trainer(folder / "run", embeddings, 32, max_steps=100_000, save_steps=5)
trainer.train()
"""

RESUMED = """
trainer = make_trainer(folder / "run", embeddings, 32, max_steps=100_000, save_steps=5)
trainer.resume(True)
first = trainer.step
trainer.train(until=first + 3)
(folder / f"went-on-{trainer.accelerator.process_index}").write_text(str(trainer.step - first))
"""


@pytest.mark.slow
def test_run_that_was_killed_goes_on(finished, tmp_path):
    np.save(tmp_path / "embeddings.npy", np.load(finished / "embeddings.npy"))
    run = start(tmp_path, KILLED)
    checkpoints = tmp_path / "run" / "checkpoints"
    until = time.monotonic() + 120
    while len(list_checkpoints(checkpoints)) < 2 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    # The launcher too, and at once: else it would end the processes politely.
    launcher = psutil.Process(run.pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        process.kill()
    run.communicate()
    assert list_checkpoints(checkpoints)
    again = start(tmp_path, RESUMED)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert [(tmp_path / f"went-on-{rank}").read_text() for rank in (0, 1)] == ["3", "3"]


EMBED = """
from csr_hf.embedding.loading import load_backbone
from csr_hf.embedding import cache as module
from csr_hf.plumbing.distributed import processes

module._SHARD_ROWS = 8
backbone = load_backbone("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
embedded = []
original = backbone.embed
backbone.embed = lambda texts, *rest, **more: embedded.extend(texts) or original(texts, *rest, **more)
with processes():
    cache = module.embed_dataset([f"text number {n}" for n in range(45)], backbone, folder / "cache")
    rank = module.rank_and_world()[0]
    (folder / f"embedded-{rank}.json").write_text(json.dumps(embedded))
    np.save(folder / f"seen-{rank}.npy", cache.to_numpy())
"""


@pytest.mark.slow
def test_each_process_embeds_its_share(finished, tmp_path, backbone):
    from csr_hf.embedding.cache import embed_dataset

    np.save(tmp_path / "embeddings.npy", np.zeros((1, 1)))
    run = start(tmp_path, EMBED)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    texts = [f"text number {n}" for n in range(45)]
    shares = [json.loads((tmp_path / f"embedded-{rank}.json").read_text()) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(texts)
    assert [len(share) for share in shares] == [24, 21]
    seen = [np.load(tmp_path / f"seen-{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*seen)
    alone = embed_dataset(texts, backbone, tmp_path / "alone", dtype="float16").to_numpy()
    np.testing.assert_allclose(seen[0].astype(np.float32), alone.astype(np.float32), atol=2e-3)
    assert len(EmbeddingCache.load(next((tmp_path / "cache").iterdir()), verify=True)) == 45


@pytest.mark.slow
def test_another_number_of_processes_than_demanded_is_refused(finished, tmp_path):
    (tmp_path / "worker.py").write_text(COMMON + "make_trainer(folder / 'run', embeddings, 32, num_processes=2)")
    np.save(tmp_path / "embeddings.npy", np.load(finished / "embeddings.npy"))
    run = accelerate_launch("--multi_gpu", "--num_processes", "3", str(tmp_path / "worker.py"), str(tmp_path))
    output, _ = run.communicate()
    assert run.returncode != 0
    assert "`num_processes` (2) differs from the 3 that started" in output
    assert "torchrun --nproc_per_node 2" in output


def test_number_of_processes_can_be_demanded(tmp_path, finished):
    embeddings = np.load(finished / "embeddings.npy")
    with pytest.raises(ValueError, match=r"`num_processes` \(8\) differs from the 1 that started"):
        make_trainer(tmp_path, embeddings, 64, num_processes=8)
    assert make_trainer(tmp_path, embeddings, 64, num_processes=1).batch_size == 64
