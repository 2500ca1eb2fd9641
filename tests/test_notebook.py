"""CSREncoder in a notebook that a real kernel runs: bars, and values that show themselves."""

import pytest

from tests.helpers.backbones import KINDS
from tests.helpers.scripts import ROOT

pytest.importorskip("ipykernel", reason='pip install -e ".[tests]"')
nbclient = pytest.importorskip("nbclient", reason='pip install -e ".[tests]"')

START = "from csr_hf import CSRConfig, CSREncoder, CSRModel\n"
WITH_HEAD = [
    START
    + "encoder = CSREncoder({folder!r}, CSRModel(CSRConfig(input_dim=32, hidden_dim=64, k=4)), device='cpu')\nencoder",
    "encoder.encode({texts!r}, show_progress_bar=True)",
]
FITTED = [
    START
    + "encoder = CSREncoder({folder!r}, k=4, hidden_dim=64, device='cpu')\nencoder.fit({texts!r}, recipe={recipe!r})",
    WITH_HEAD[1],
]
RECIPE = {
    "training": {"max_steps": 5, "per_device_train_batch_size": 32},
    "data": {"held_out": 0.3},
    "evaluation": {"ks": [4], "baselines": ["truncate"]},
}


@pytest.mark.parametrize(
    "cells", [WITH_HEAD, pytest.param(FITTED, marks=pytest.mark.slow)], ids=["with a head", "fitted there"]
)
def test_a_notebook_encodes(cells, tiny_folder, tmp_path, monkeypatch):
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder, texts = str(tiny_folder("bert")), KINDS["bert"].sentences(90)
    values = {"folder": folder, "texts": texts, "recipe": RECIPE}
    notebook = new_notebook(cells=[new_code_cell(source.format(**values)) for source in cells])
    # A cell that fails ends the run.
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        [each["data"]["text/plain"] for each in cell.outputs if each.output_type == "execute_result"]
        for cell in notebook.cells
    ]
    assert shown[0] == [f"CSREncoder({folder}, 32 -> 64 latents, k=4, on cpu)"]
    assert shown[1][0].startswith("SparseCodes(n=90, k=4, dim=64")
