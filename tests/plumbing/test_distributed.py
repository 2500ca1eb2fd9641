"""Real runs of two processes (gloo) beside one process with their batches together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from csr_hf import CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from csr_hf.embedding.cache import EmbeddingCache
from csr_hf.training.checkpoints import list_checkpoints
from tests.conftest import make_head

ROOT = Path(__file__).parents[2]
EVERYTHING = {"gamma": 0.3, "distillation": 0.5, "balance": 0.2, "k_start": 9}

COMMON = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from csr_hf import CSRTrainer, CSRTrainingArguments
from csr_hf.data.sources import Source
from tests.conftest import make_head
from tests.plumbing.test_distributed import EVERYTHING, make_trainer

folder = Path(sys.argv[1])
embeddings = np.load(folder / "embeddings.npy")
"""

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


def start(folder, script):
    (folder / "worker.py").write_text(COMMON + script)
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return subprocess.Popen(
        [*launch, str(folder / "worker.py"), str(folder)],
        env=environment,
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
        torch.testing.assert_close(first[name], tensor, atol=1e-4, rtol=1e-3)
    curves = [[line["loss"] for line in log_of(folder)] for folder in (finished / "whole", tmp_path)]
    assert len(curves[0]) == 20
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


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
def test_launcher_that_starts_too_few_processes_is_found_out(finished, tmp_path):
    (tmp_path / "worker.py").write_text(COMMON + "make_trainer(folder / 'run', embeddings, 32, num_processes=2)")
    np.save(tmp_path / "embeddings.npy", np.load(finished / "embeddings.npy"))
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "worker.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "`num_processes` (2) differs from the 1 that started" in done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr


def test_number_of_processes_can_be_demanded(tmp_path, finished):
    embeddings = np.load(finished / "embeddings.npy")
    with pytest.raises(ValueError, match=r"`num_processes` \(8\) differs from the 1 that started"):
        make_trainer(tmp_path, embeddings, 64, num_processes=8)
    assert make_trainer(tmp_path, embeddings, 64, num_processes=1).batch_size == 64
