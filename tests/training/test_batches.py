import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from csr_hf import CSRTrainer, CSRTrainingArguments
from tests.conftest import make_head
from tests.data.test_given import stream

MANY = """
import resource, sys
import numpy as np

resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from csr_hf.training.arguments import CSRTrainingArguments
from csr_hf.training.trainer import CSRTrainer

rows = np.memmap(sys.argv[1], np.float16, "r", shape=(10_000_000, 384))
args = CSRTrainingArguments.from_preset("csr_hf", max_steps=5, output_dir=sys.argv[2])
trainer = CSRTrainer(CSRModel(CSRConfig(input_dim=384, hidden_dim=1536, k=32)), args, rows)
figures = trainer.train()
assert figures["steps"] == 5 and len(trainer.batches.rows) == 10_000_000
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["RssAnon"].split()[0]))
"""


def make_trainer(folder, given, **settings):
    arguments = {"max_steps": 5, "per_device_train_batch_size": 32, "save_steps": 0, "output_dir": str(folder)}
    return CSRTrainer(make_head(), CSRTrainingArguments(**{**arguments, **settings}), given)


@pytest.mark.parametrize("form", ["tensor", "data set", "stream", "list of both"])
def test_every_form_trains_to_the_same_bits(form, tmp_path, embeddings):
    forms = {
        "tensor": lambda: torch.from_numpy(embeddings),
        "data set": lambda: Dataset.from_dict({"embedding": list(embeddings)}),
        "stream": lambda: stream(embedding=embeddings),
        "list of both": lambda: [torch.from_numpy(embeddings[:200]), stream(embedding=embeddings[200:])],
    }
    plain = [embeddings[:200], embeddings[200:]] if form == "list of both" else embeddings
    expected, trainer = make_trainer(tmp_path / "plain", plain), make_trainer(tmp_path / "form", forms[form]())
    assert trainer.batches.rows.fingerprint == expected.batches.rows.fingerprint
    for each in (expected, trainer):
        each.train()
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor)


def test_columns_are_contrasted(tmp_path, embeddings):
    columns = {"anchor": embeddings[:300], "positive": embeddings[300:]}
    dataset = Dataset.from_dict({name: list(rows) for name, rows in columns.items()})
    trainer = make_trainer(tmp_path, dataset, gamma=0.1, contrast="pairs")
    batch = trainer.batches.at(0)
    anchors, positives = (batch.embeddings * trainer.batches.scale).numpy().reshape(2, 32, 12)
    rows = [int(np.flatnonzero((columns["anchor"] == anchor).all(1))[0]) for anchor in anchors]
    assert np.array_equal(columns["positive"][rows], positives)
    labeled = Dataset.from_dict({"text": list(embeddings), "label": ["a", "b", "c"] * 200})
    assert set(make_trainer(tmp_path, labeled, gamma=0.1, contrast="labels").batches.at(0).labels.tolist()) == {
        0,
        1,
        2,
    }


def test_rows_that_are_not_finite_are_named(tmp_path, embeddings):
    bad = embeddings.astype(np.float64)
    bad[411, 3] = 1e200
    with pytest.raises(ValueError, match="array 0, row 411 holds NaN or infinity"):
        make_trainer(tmp_path, bad)
    bad = torch.from_numpy(embeddings).bfloat16()
    bad[17, 2] = torch.nan
    with pytest.raises(ValueError, match="array 0, row 17 holds NaN or infinity"):
        make_trainer(tmp_path, bad)


def map_array(path, rows):
    np.save(path, rows)
    return np.load(path, mmap_mode="r")


def map_data_set(path, rows):
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    table = pa.table({"embedding": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    return Dataset.from_file(str(path))


@pytest.mark.parametrize("save", [map_array, map_data_set])
def test_rows_stay_where_they_lie(save, tmp_path):
    rows = np.random.default_rng(0).standard_normal((400_000, 64), np.float32).astype(np.float16)
    size, given = rows.nbytes, save(tmp_path / "rows.npy", rows)
    del rows
    args = CSRTrainingArguments(max_steps=2, per_device_train_batch_size=32, output_dir=str(tmp_path / "run"))
    tracemalloc.start()
    try:
        CSRTrainer(make_head(input_dim=64), args, given).train()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.75 * size


@pytest.mark.slow
def test_ten_million_rows_need_no_memory_of_their_own(tmp_path):
    # A sparse file of 7.7 GB: what is not written takes no space, and is read as zeros.
    rows = np.memmap(tmp_path / "rows", np.float16, "w+", shape=(10_000_000, 384))
    rows[:: 10_000_000 // 5000] = np.random.default_rng(0).standard_normal((5000, 384), np.float32)
    rows.flush()
    script = tmp_path / "many.py"
    script.write_text(MANY)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "rows"), str(tmp_path / "run")], capture_output=True, text=True
    )
    (tmp_path / "rows").unlink()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * 2**20
