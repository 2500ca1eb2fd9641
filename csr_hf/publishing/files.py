"""Tell the files of a published model that csr_hf wrote from those that a person put beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from csr_hf.publishing.model_card_facts import QUOTED_FILES, RESULTS
from csr_hf.repository import NATIVE_HEAD, NATIVE_ROUTER, ROUTER_SETTINGS
from csr_hf.runs.folder import LATENTS

CARD = "README.md"
_FILES = {
    CARD,
    "config.json",
    LATENTS,
    "model.safetensors",
    "configuration_csr.py",
    "head_weights.py",
    "least_squares.py",
    "modeling_csr.py",
    "modules.json",
    "config_sentence_transformers.json",
    *(f"{RESULTS}/{name}" for name in QUOTED_FILES),
}
_EVAL_RESULTS = re.compile(r"\.eval_results/[^/]+\.yaml")


def find_written(names: Iterable[str], modules: Iterable[dict[str, str]]) -> set[str]:
    """Find the files that an export wrote, of either layout.

    Figures in `.eval_results/` are among them, whoever put them there: they belong to the head that is replaced.

    Args:
        names: of all files, relative to the published model.
        modules: what its `modules.json` lists, see `Repository.modules`.
    """
    names = set(names)
    folders = {module["path"] for module in modules}
    # Without modules.json, only the settings of a native module tell its folder from another of the same name.
    for folder in (NATIVE_HEAD, NATIVE_ROUTER):
        if names & {f"{folder}/config.json", f"{folder}/{ROUTER_SETTINGS}"}:
            folders.add(folder)
    return {name for name in names if name in _FILES or name.split("/")[0] in folders or _EVAL_RESULTS.fullmatch(name)}
