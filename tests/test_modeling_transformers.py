"""A head inside of what transformers and PyTorch do with models: Trainer, compile, export, DDP, Hub, Auto classes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed
from torch.utils import _pytree
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from csr_hf import CSRConfig, CSREncoder, CSRModel, CSROutput, auto_classes
from csr_hf.codes import head_fingerprint
from csr_hf.heads import load_head
from csr_hf.repository import open_repository
from tests.conftest import make_head
from tests.publishing.conftest import change_json
from tests.test_modeling import make_old

NAMES = ["loss", "code_values", "code_indices", "reconstruction"]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def head(request):
    return make_head(request.param)


def same(output, expected):
    """Equal numbers in all fields."""
    assert list(output) == list(expected) == NAMES
    assert torch.equal(output.code_indices, expected.code_indices)
    for name in NAMES:
        torch.testing.assert_close(output[name], expected[name])


def test_output_is_a_mapping_without_hidden_methods(head, inputs):
    output = head(inputs)
    assert not set(NAMES) & set(dir(dict))
    assert [id(value) for value in output.values()] == [id(output[name]) for name in NAMES]
    leaves, spec = _pytree.tree_flatten(output)
    assert len(leaves) == 4
    again = _pytree.tree_unflatten(leaves, spec)
    assert type(again) is CSROutput
    same(again, output)


def test_output_without_loss_and_as_a_tuple(head, inputs):
    expected = head(inputs)
    output = head(inputs, return_loss=False)
    assert output.loss is None
    assert list(output) == NAMES[1:]
    plain = head(inputs, return_dict=False)
    assert all(torch.equal(value, expected[name]) for value, name in zip(plain, NAMES, strict=True))
    head.config.return_dict = False
    assert isinstance(head(inputs), tuple)


def make_arguments(folder, **settings):
    common = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 32}
    return TrainingArguments(folder, **{"save_strategy": "no", **common, **settings})


def as_tensors(embeddings):
    from datasets import Dataset

    return Dataset.from_dict({"embeddings": embeddings.tolist()}).with_format("torch")


# What a data set gives: lists of an Arrow table, tensors of one, arrays of a plain sequence.
DATA = {
    "lists": lambda rows: as_tensors(rows).with_format(None),
    "tensors": as_tensors,
    "arrays": lambda rows: [{"embeddings": row} for row in rows.astype(np.float64)],
}


@pytest.mark.parametrize("kind", DATA)
def test_trainer_takes_a_head_as_it_is(tmp_path, embeddings, kind):
    data, model = DATA[kind](embeddings), make_head()
    settings = {"eval_strategy": "steps", "eval_steps": 30, "save_strategy": "steps", "save_steps": 30}
    settings |= {"max_steps": 60, "learning_rate": 1e-2, "per_device_eval_batch_size": 200}
    arguments = make_arguments(tmp_path, load_best_model_at_end=True, **settings)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    assert losses[-1] < 0.5 * before
    assert losses[-1] == pytest.approx(model(torch.from_numpy(embeddings)).loss.item(), rel=1e-3)
    found = trainer.predict(data).predictions
    assert [each.shape for each in found] == [(600, 5), (600, 5), (600, 12)]
    saved = CSRModel.from_pretrained(tmp_path / "checkpoint-60")
    assert head_fingerprint(saved) == head_fingerprint(model)


def test_trainer_of_mixed_precision_that_resumes(tmp_path, embeddings):
    settings = {
        "bf16": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 3,
        "gradient_accumulation_steps": 2,
    }
    models = [make_head(), make_head()]
    for model, checkpoint in zip(models, (None, str(tmp_path / "checkpoint-2")), strict=True):
        arguments = make_arguments(tmp_path, **settings)
        trainer = Trainer(model=model, args=arguments, train_dataset=DATA["arrays"](embeddings))
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 3
    states = [model.state_dict().values() for model in models]
    assert all(torch.equal(first, second) for first, second in zip(*states, strict=True))
    assert models[0].dtype == torch.float32
    assert head_fingerprint(models[0]) != head_fingerprint(make_head())


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=["traced", "compiled"]
)
def test_forward_is_one_graph(head, inputs, backend):
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, backend=backend)
    same(compiled(inputs), head(inputs))
    compiled(inputs).loss.backward()
    gradients = [parameter.grad.clone() for parameter in head.parameters()]
    head.zero_grad()
    head(inputs).loss.backward()
    for found, parameter in zip(gradients, head.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-4)


def test_one_graph_serves_every_k(inputs):
    head = make_head()
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    for k in (3, 4, 7):
        same(compiled(inputs, k), head(inputs, k))


def test_exported_program_takes_any_number_of_rows(head, inputs, tmp_path):
    rows = torch.export.Dim("rows")
    program = torch.export.export(head, (inputs[:7],), dynamic_shapes={"embeddings": {0: rows}})
    torch.export.save(program, tmp_path / "head.pt2")
    loaded = torch.export.load(tmp_path / "head.pt2").module()
    for count in (2, 50):
        same(loaded(inputs[:count]), head(inputs[:count]))


@pytest.fixture
def process_group(tmp_path, monkeypatch):
    """A real group of one process."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_finds_unused_parameters(head, inputs, process_group):
    expected = head(inputs)
    expected.loss.backward()
    gradients = [parameter.grad.clone() for parameter in head.parameters()]
    head.zero_grad()
    parallel = torch.nn.parallel.DistributedDataParallel(head, find_unused_parameters=True)
    for _ in range(2):
        head.zero_grad()
        output = parallel(inputs)
        output.loss.backward()
        assert type(output) is CSROutput
        same(output, expected)
        for found, parameter in zip(gradients, head.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad)


DDP = """
import sys, torch
import torch.distributed as dist
from tests.conftest import make_head

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
head = make_head()
parallel = torch.nn.parallel.DistributedDataParallel(head, find_unused_parameters=True)
parallel(torch.load(f"{folder}/inputs.pt")[rank::2]).loss.backward()
torch.save([parameter.grad for parameter in head.parameters()], f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.save(inputs, tmp_path / "inputs.pt")
    calls = [[sys.executable, "-c", DDP, str(rank), str(tmp_path)] for rank in range(2)]
    started = [subprocess.Popen(call, stderr=subprocess.PIPE, text=True) for call in calls]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    head = make_head()
    head(inputs).loss.backward()
    for rank in range(2):
        for found, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), head.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-4)


def test_push_to_hub_and_back(head, inputs, hub, token):
    head.config.base_model_settings = {"truncate_dim": 12}
    head.half().push_to_hub("user/plain")
    for load in (CSRModel.from_pretrained, AutoModel.from_pretrained):
        loaded = load("user/plain")
        assert type(loaded) is CSRModel
        assert loaded.config.base_model_settings == {"truncate_dim": 12}
        assert head_fingerprint(loaded) == head_fingerprint(head)
        same(loaded(inputs), head(inputs))
    head.push_to_hub("user/plain", revision="wide", commit_message="again", create_pr=False)
    assert type(CSRModel.from_pretrained("user/plain", revision="wide")) is CSRModel


@pytest.mark.parametrize("loader", [CSRModel, AutoModel])
@pytest.mark.parametrize(
    "options", [{"load_in_8bit": True}, {"load_in_4bit": True}, {"quantization_config": {"a": 1}}]
)
def test_quantized_loading_is_refused(tmp_path, loader, options):
    make_head().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"`{next(iter(options))}`: a CSR head is not quantized: it has a few MB"):
        loader.from_pretrained(tmp_path, **options)


def test_old_heads_load_by_every_door(tmp_path, caplog):
    folder = make_old(make_head(), tmp_path / "old")
    expected = head_fingerprint(make_head())
    doors = [
        CSRModel.from_pretrained,
        AutoModel.from_pretrained,
        lambda path: AutoModel.from_pretrained(path, trust_remote_code=True),
        lambda path: load_head(open_repository(path)),
    ]
    for door in doors:
        head = door(folder)
        assert type(head) is CSRModel
        assert head.config.model_type == "csr_hf"
        assert head_fingerprint(head) == expected
    assert type(AutoConfig.from_pretrained(folder)) is CSRConfig
    assert "You are using a model of type" not in caplog.text
    head.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "csr_hf"


def test_an_old_head_encodes_with_its_backbone(clip, tmp_path):
    make_head(input_dim=clip.dim, base_model_name_or_path=clip.name).save_pretrained(tmp_path)
    expected = CSREncoder.from_pretrained(tmp_path, device="cpu").encode(["a text"])
    change_json(tmp_path / "config.json", model_type="csr")
    found = CSREncoder.from_pretrained(tmp_path, device="cpu").encode(["a text"])
    assert found.head_fingerprint == expected.head_fingerprint
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_another_model_of_the_old_name_keeps_it(monkeypatch, tmp_path):
    from transformers import BertConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    folder = make_old(make_head(), tmp_path / "old")
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "csr", BertConfig)
    auto_classes.register()
    assert CONFIG_MAPPING["csr"] is BertConfig
    assert type(load_head(open_repository(folder))) is CSRModel
    assert type(CSRModel.from_pretrained(folder).config) is CSRConfig
