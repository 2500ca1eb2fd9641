"""Runs to open a page of: texts among which are some that a page must not believe."""

import json

import numpy as np
import pytest

from csr_hf.cli.main import main
from tests.conftest import make_head
from tests.helpers.runs import make_once

WORDS = ["cat", "dog", "bird", "red", "blue", "green", "run", "walk", "look", "water"]
HOSTILE = [
    "cat <script>window.hacked = 1</script> dog",
    'cat <img src="x" onerror="window.hacked = 1"> bird',
    "cat ${window.hacked = 1} {{value}} {{#each value}} `tick` {% raw %}",
    "cat \x1b[31mred\x1b[0m \u202ekcab \x00 nul",
    "</div></li></ol><h1>cat</h1> &amp; &lt;b&gt;",
    "cat " + "water " * 2000,
]


def write_run(folder, backbone):
    """Index 150 texts, the hostile ones among them, and name the latents."""
    make_head(input_dim=32, hidden_dim=96, k=8, base_model_name_or_path=str(backbone)).save_pretrained(folder / "head")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(150 - len(HOSTILE))] + HOSTILE
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    words = ["--corpus", str(folder / "texts.jsonl"), "--head", str(folder / "head"), "--device", "cpu"]
    assert main(["index", *words, "--output-dir", str(folder / "run"), "--index.copies=[float16]"]) == 0
    assert main(["explain", str(folder / "run"), "--device", "cpu"]) == 0


@pytest.fixture(scope="session")
def texts_run(tiny_folder, session_folder):
    """The folder of a run of texts; to be read, not written."""
    return make_once(session_folder / "demo_texts", lambda folder: write_run(folder, tiny_folder("router"))) / "run"
