"""A model repository, in a folder or on the Hub, read at one commit; nothing in it may point outside of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

NATIVE_HEAD = "SparseAutoEncoder"
"""The class of sentence-transformers that holds a head."""
NATIVE_ROUTER = "Router"
"""The one that holds a head for each modality."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# Weights, settings and tokenizers. No code and no pickles: neither is ever needed, so neither is fetched.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")


@dataclass(frozen=True)
class Repository:
    """Files of one commit."""

    name: str
    """Folder or Hub id, as it was asked for."""
    folder: Path
    """Where the files are."""
    commit: str | None = None
    """Of a Hub repository; None for a folder."""

    def path(self, inside: str) -> Path:
        """The path of a file or folder in the repository, which need not exist.

        Raises:
            ValueError: if it is absolute, climbs out with `..`, or is a link that leads out.
        """
        parts = PureWindowsPath(inside)
        if parts.anchor or ".." in parts.parts:
            raise ValueError(f"{self.name} points outside of its own folder ({inside!r}). Do not trust it.")
        # The Hub's cache links each snapshot to the blobs two levels above it.
        folder = self.folder.resolve()
        root = folder.parent.parent if folder.parent.name == "snapshots" else folder
        path = self.folder / inside
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{self.name} links {inside!r} to a place outside of its own folder. Do not trust it.")
        return path

    def read_json(self, inside: str) -> Any:
        """A JSON file; None if there is none.

        Raises:
            ValueError: if it is not JSON, or as `path` does.
        """
        path = self.path(inside)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{inside} of {self.name} is not JSON: {error}. Download or save it again.") from error

    def modules(self) -> list[dict[str, str]]:
        """The modules of sentence-transformers in it, in order, each with `path` and `type`; empty without any.

        Raises:
            ValueError: if `modules.json` is something else, or a module lies outside of the repository.
        """
        listing = self.read_json("modules.json")
        try:
            modules = [{"path": str(module["path"]), "type": str(module["type"])} for module in listing or []]
        except (KeyError, TypeError) as error:
            raise ValueError(f"modules.json of {self.name} is not a list of modules: {error!r}.") from error
        for module in modules:
            for path in [self.path(module["path"]), *self.path(module["path"]).rglob("*")]:
                self.path(str(path.relative_to(self.folder)))
        return modules

    def folder_of(self, module: str) -> str | None:
        """The folder of the module of this class name; None without it.

        Raises:
            ValueError: if there are several.
        """
        found = [entry["path"] for entry in self.modules() if entry["type"].rsplit(".", 1)[-1] == module]
        if len(found) > 1:
            raise ValueError(f"modules.json of {self.name} names {len(found)} {module} modules; one is expected.")
        return found[0] if found else None

    @property
    def is_packed(self) -> bool:
        """Whether it holds backbone and head as modules of sentence-transformers."""
        return any(self.folder_of(module) is not None for module in (NATIVE_HEAD, NATIVE_ROUTER))


def open_repository(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    extra: Sequence[str] = (),
) -> Repository:
    """Open a folder, or fetch a Hub repository whole and at one commit; offline, what the local cache holds.

    Args:
        name_or_path: folder, output folder of `csr-hf run`, or Hub id.
        revision: branch, tag or commit of a Hub repository.
        token: default the one of `hf auth login` or of HF_TOKEN.
        extra: files that are wanted beside weights, settings and tokenizers.

    Raises:
        ValueError: if there is no such repository, or no right to read it, with what to do.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        # Of a whole run, its head.
        is_run = not (Path(name) / "config.json").is_file() and (Path(name) / "model" / "config.json").is_file()
        return Repository(name, Path(name, "model") if is_run else Path(name))
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, token=token, allow_patterns=[*_PATTERNS, *extra])
    except errors.HFValidationError as error:
        raise ValueError(f"{name!r} is neither a folder nor an id on the Hub (user/name).") from error
    except errors.GatedRepoError as error:
        raise ValueError(f"{name} is gated: accept its conditions on its page on the Hub, then log in.") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {revision!r}. Give a branch, a tag or a commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{name} is no folder here and not on the Hub, or it is private and you are not logged in as somebody who "
            "may read it: `hf auth login`, or set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name} is not in the local cache{f' at revision {revision}' if revision else ''}, and the Hub does not "
            "answer (or HF_HUB_OFFLINE is set). Load it once while online."
        ) from error
    return Repository(name, Path(folder), Path(folder).name)


def is_hub_id(name: str) -> bool:
    """Whether a name can only be meant as a Hub id: `name` or `user/name`, and no folder is called so here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()
