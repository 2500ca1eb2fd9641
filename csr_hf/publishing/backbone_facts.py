"""What is known of a backbone without loading it: license, language, size."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_hf.embedding.backbone import packaged_folder

_PROBE_SECONDS = 10.0
_WEIGHTS = (".safetensors", ".bin")

# A head may be shared under the backbone's license, or under another that asks for no less.
_PUBLIC_DOMAIN = {"cc0-1.0", "unlicense", "pddl", "wtfpl", "0bsd"}
_PERMISSIVE = {"apache-2.0", "mit", "isc", "zlib", "bsd", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-3.0"}


@dataclass(frozen=True)
class BackboneFacts:
    """Of a backbone that may never be loaded; None where nothing says it."""

    license: str | None = None
    language: str | list[str] | None = None
    weight_bytes: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """What a license of its own needs beside its name: `license_name`, `license_link`."""


def find_backbone_facts(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> BackboneFacts:
    """Look where `load_backbone` looks: a folder, the Hub, the local Hub cache, an installed package."""
    from huggingface_hub import HfApi, snapshot_download

    if Path(name_or_path).is_dir():
        return _facts_of_folder(Path(name_or_path))
    # Whatever went wrong is a reason to look in the next place; not to know is no error.
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


def check_license(license: str, facts: BackboneFacts) -> None:
    """Refuse a license that is freer than the backbone's.

    Raises:
        ValueError: if it is, with both names.
    """
    backbone = facts.license
    if backbone is None or license.lower() == backbone.lower():
        return
    if _freedom(license) > _freedom(backbone) or _freedom(backbone) == 0:
        raise ValueError(
            f"the license {license!r} is freer than the backbone's, or cannot be compared with it ({backbone!r}). "
            f"Use --license {backbone}."
        )


def _freedom(license: str) -> int:
    license = license.lower()
    return 2 if license in _PUBLIC_DOMAIN else 1 if license in _PERMISSIVE else 0


def _facts_of_folder(folder: Path) -> BackboneFacts:
    from huggingface_hub import ModelCard

    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.suffix in _WEIGHTS}
    card = folder / "README.md"
    content = card.read_text(encoding="utf-8") if card.is_file() else ""
    data = ModelCard(content, ignore_metadata_errors=True).data.to_dict() if content else {}
    return _facts(data, sizes)


def _facts(card: dict[str, Any], sizes: dict[str, int]) -> BackboneFacts:
    # Many repositories hold the same weights in two formats.
    by_format = {suffix: sum(size for name, size in sizes.items() if name.endswith(suffix)) for suffix in _WEIGHTS}
    license = card.get("license")
    return BackboneFacts(
        license=license if isinstance(license, str) and re.fullmatch(r"[\w.-]+", license) else None,
        language=card.get("language"),
        weight_bytes=next((size for size in by_format.values() if size), None),
        extra={name: card[name] for name in ("license_name", "license_link") if name in card},
    )
