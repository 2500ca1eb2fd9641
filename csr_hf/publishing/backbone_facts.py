"""Look up license, language and size of a backbone without loading it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_hf.embedding.loading import packaged_folder
from csr_hf.plumbing.foreign import one_line

_PROBE_SECONDS = 10.0
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class BackboneFacts:
    """License, language and size of a backbone; None where its card and files do not say."""

    license: str | None = None
    language: str | list[str] | None = None
    weight_bytes: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """`license_name` and `license_link` of the card, which a custom license needs."""


def find_backbone_facts(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> BackboneFacts:
    """Read the card and the file sizes of a backbone where `load_backbone` would find it.

    Args:
        name_or_path: a folder, or a Hub id, which is looked up on the Hub, in the local Hub cache, and in an installed
            package.
        revision: branch, tag or commit.
        token: default the one of `hf auth login` or of HF_TOKEN.

    Returns:
        The facts; all None if no place has the backbone.
    """
    from huggingface_hub import HfApi, snapshot_download

    if Path(name_or_path).is_dir():
        return _facts_of_folder(Path(name_or_path))
    # Any failure means to look in the next place: facts that nobody knows are no error.
    try:
        info = HfApi(token=token).model_info(
            name_or_path, revision=revision, files_metadata=True, timeout=_PROBE_SECONDS
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        return _facts(info.card_data.to_dict() if info.card_data else {}, sizes)
    except Exception:  # noqa: BLE001
        pass
    try:
        return _facts_of_folder(Path(snapshot_download(name_or_path, revision=revision, local_files_only=True)))
    except Exception:  # noqa: BLE001
        folder = packaged_folder(name_or_path)
    return _facts_of_folder(folder) if folder else BackboneFacts()


def _facts_of_folder(folder: Path) -> BackboneFacts:
    from huggingface_hub import ModelCard

    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.suffix in _WEIGHTS}
    card = folder / "README.md"
    content = card.read_text(encoding="utf-8") if card.is_file() else ""
    data = ModelCard(content, ignore_metadata_errors=True).data.to_dict() if content else {}
    return _facts(data, sizes)


def _facts(card: dict[str, Any], sizes: dict[str, int]) -> BackboneFacts:
    # Many repositories hold the same weights in two formats, of which `load_backbone` reads one.
    by_format = {suffix: sum(size for name, size in sizes.items() if name.endswith(suffix)) for suffix in _WEIGHTS}
    license = card.get("license")
    return BackboneFacts(
        license=license if isinstance(license, str) and re.fullmatch(r"[\w.-]+", license) else None,
        language=_languages(card.get("language")),
        weight_bytes=next((size for size in by_format.values() if size), None),
        extra={
            name: one_line(card[name])[:300]
            for name in ("license_name", "license_link")
            if isinstance(card.get(name), str)
        },
    )


def _languages(given: Any) -> str | list[str] | None:
    """Return codes of languages, or nothing where a card holds something else."""
    codes = given if isinstance(given, list) else [given]
    fine = all(isinstance(code, str) and re.fullmatch(r"[\w-]{1,30}", code, re.ASCII) for code in codes)
    return given if fine else None
