"""What `csr-hf info` says of heads, and of models that are none."""

import json

import numpy as np
import pytest

from csr_hf import SparseCodes
from csr_hf.publishing.sentence_transformers import native_head
from csr_hf.runs.describe import examine
from csr_hf.runs.state import RunState
from tests.conftest import make_head
from tests.publishing.conftest import change_json, make_results, write_run


def test_heads_of_all_names_are_described(tmp_path):
    make_head(base_model_name_or_path="some/backbone", base_model_settings={"truncate_dim": 12}).save_pretrained(
        tmp_path
    )
    expected = examine(tmp_path).lines
    assert "12 -> 40 latents, k 5, tied decoder" in expected[0]
    assert expected[1] == '  backbone some/backbone, revision unknown, settings {"truncate_dim": 12}'
    change_json(tmp_path / "config.json", model_type="csr")
    assert examine(tmp_path).lines == expected
    (tmp_path / "native").mkdir()
    native_head(make_head()).save(str(tmp_path / "native"))
    assert "12 -> 40 latents, k 5" in examine(tmp_path / "native").lines[0]


@pytest.mark.parametrize("content", [{"model_type": "bert", "hidden_size": 32}, {"model_type": "csr"}, ["csr_hf"], 5])
def test_other_models_are_no_heads(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"holds no CSR head: its config\.json is that of another model"):
        examine(tmp_path)


def test_damaged_configs_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json of .* is not JSON"):
        examine(tmp_path)


def test_a_folder_of_json_files_is_no_index(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a run, model, index"):
        examine(tmp_path)


@pytest.mark.parametrize(("kind", "missing"), [("a run", "head"), ("a sweep", "results")])
def test_what_was_interrupted_is_no_index(tmp_path, kind, missing):
    RunState(str(tmp_path), kind, {}, []).mark("step")
    (line,) = examine(tmp_path).lines
    assert line == f"{kind} in {tmp_path}, not finished: no {missing} yet. The same command goes on with it."


def test_figures_of_another_head_are_not_shown(tmp_path):
    write_run(tmp_path, make_head(), make_results())
    assert any("keeps 0.950 of nDCG@10" in line for line in examine(tmp_path).lines)
    make_head(hidden_dim=48).save_pretrained(tmp_path / "model")
    (line,) = [line for line in examine(tmp_path).lines if "results" in line]
    assert f"{tmp_path / 'results.json'} holds figures of another head" in line
    assert "keeps" not in line


def test_packed_codes_are_described_and_damaged_ones_refused(tmp_path):
    codes = SparseCodes(np.array([[1, 4], [2, 3]]), np.array([[2.0, 1.0], [1.0, 1.0]]), 9, "a-head").pack(3)
    codes.with_residual(np.full((2, 6), 7, np.uint8)).save(tmp_path / "codes.safetensors")
    described = examine(tmp_path / "codes.safetensors")
    assert described.facts["kind"] == "packed codes"
    expected = {"rows": 2, "k": 2, "latents": 9, "bits": 3, "residual_bytes": 6, "head": "a-head"}
    assert expected.items() <= described.facts.items()
    assert described.facts["bytes_per_row"] == codes.row_bytes + 6
    (line,) = described.lines
    assert line.endswith(f"3 bits a value, {codes.row_bytes + 6} bytes a row, 6 of them residual), head a-head")
    raw = (tmp_path / "codes.safetensors").read_bytes()
    (tmp_path / "codes.safetensors").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=r"codes\.safetensors is truncated, damaged, or no file of"):
        examine(tmp_path / "codes.safetensors")
