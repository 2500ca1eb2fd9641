"""A training that publishes its head when it ends, against the local Hub."""

import pytest
import torch

from csr_hf import CSRModel, CSRTrainer, CSRTrainingArguments
from csr_hf.training.checkpoints import list_checkpoints
from tests.conftest import make_head


def make_trainer(folder, embeddings, head=None, **arguments):
    settings = {"max_steps": 4, "per_device_train_batch_size": 64, "save_steps": 2, "push_to_hub": True, **arguments}
    return CSRTrainer(head or make_head(), CSRTrainingArguments(**settings, output_dir=str(folder)), embeddings)


def test_head_is_pushed_as_one_commit_when_the_training_ends(hub, token, tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, hub_model_id="user/trained", hub_private_repo=True)
    trainer.train(until=2)
    repo = hub.repo("user/trained")
    # An interruption is no end: the repository is made, and empty.
    assert (len(repo.log), repo.private) == (1, True)
    trainer.train()
    assert len(repo.log) == 2
    files = set(repo.files("main")) - {".gitattributes"}
    assert files >= {"config.json", "model.safetensors", "modeling_csr.py"}
    assert files == {path.name for path in (tmp_path / "model").iterdir()}
    pulled = CSRModel.from_pretrained("user/trained")
    assert all(torch.equal(tensor, pulled.state_dict()[name]) for name, tensor in trainer.model.state_dict().items())
    # The next training of the same head may go there too.
    make_trainer(tmp_path / "again", embeddings, hub_model_id="user/trained", seed=1).train()
    assert len(repo.log) == 3


def test_repository_is_named_after_the_output_folder(hub, token, tmp_path, embeddings):
    make_trainer(tmp_path / "my-head", embeddings).train()
    assert "model.safetensors" in hub.repo("user/my-head").files("main")


def test_what_may_not_be_pushed_is_refused_before_the_training(hub, token, tmp_path, embeddings, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    hub.add("user/bert", other)
    (other / "config.json").write_text("no JSON")
    hub.add("user/broken", other)
    hub.add("user/public", tmp_path / "nothing")
    local = make_head()
    local.config.base_model_name_or_path = str(other)
    for arguments, message in (
        ({"hub_model_id": "user/bert"}, "`hub_model_id`: user/bert holds another model"),
        ({"hub_model_id": "user/broken"}, "`hub_model_id`: user/broken holds another model"),
        ({"hub_model_id": "user/public", "hub_private_repo": True}, "user/public exists and is public"),
        ({"hub_model_id": "not a name!"}, r"`hub_model_id` \('not a name!'\) is not a name on the Hub"),
        ({"hub_model_id": "user/local", "head": local}, "is not on the Hub, and a head must name one"),
    ):
        trainer = make_trainer(tmp_path / "run", embeddings, **arguments)
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert trainer.step == 0
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"no right to write to user/new. Log in with `hf auth login`"):
        make_trainer(tmp_path / "run", embeddings, hub_model_id="user/new").train()


def test_push_that_fails_keeps_the_head(hub, token, tmp_path, embeddings):
    trainer = make_trainer(tmp_path, embeddings, hub_model_id="user/interrupted")
    hub.interrupted = "POST .*/commit/"
    try:
        with pytest.raises(OSError, match=rf"the push to user/interrupted failed .*The head is in {tmp_path}/model"):
            trainer.train()
    finally:
        hub.interrupted = None
    assert len(hub.repo("user/interrupted").log) == 1
    kept = CSRModel.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, kept.state_dict()[name]) for name, tensor in trainer.model.state_dict().items())
    # The training is over; resuming it pushes alone.
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")][-1] == "step_0000004"
    assert make_trainer(tmp_path, embeddings, hub_model_id="user/interrupted").train(True)["steps"] == 4
    assert "model.safetensors" in hub.repo("user/interrupted").files("main")
