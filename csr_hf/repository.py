"""Open a model repository, a folder or one commit on the Hub, and refuse paths that lead outside of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from csr_hf.plumbing.atomic import restore
from csr_hf.runs.folder import RunFolder

NATIVE_HEAD = "SparseAutoEncoder"
"""Name of the sentence-transformers class that holds a head."""
NATIVE_ROUTER = "Router"
"""Name of the sentence-transformers class that chooses modules by modality or task."""
ROUTER_SETTINGS = "router_config.json"
"""File in the folder of such a module that lists what is in it."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# Weights, settings and tokenizers. Code and pickles are never needed, so they are not downloaded.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")


@dataclass(frozen=True)
class Repository:
    """The files of a model, at one commit."""

    name: str
    """Folder or Hub id, as the user gave it."""
    folder: Path
    """Local folder that holds the files."""
    commit: str | None = None
    """Commit of a Hub repository; None for a folder."""

    def path(self, inside: str) -> Path:
        """Return the local path of a file or folder in the repository, which need not exist.

        Args:
            inside: path relative to the repository.

        Raises:
            ValueError: if it is absolute, contains `..`, or is a link to a target outside of the repository.
        """
        parts = PureWindowsPath(inside)
        if parts.anchor or ".." in parts.parts:
            raise ValueError(f"{self.name} points outside of its own folder ({inside!r}). Do not trust it.")
        # In the Hub's cache, the files of a snapshot are links into `blobs`, two levels up.
        folder = self.folder.resolve()
        root = folder.parent.parent if folder.parent.name == "snapshots" else folder
        path = self.folder / inside
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{self.name} links {inside!r} to a place outside of its own folder. Do not trust it.")
        return path

    def read_json(self, inside: str) -> Any:
        """Read a JSON file; None if it does not exist.

        Raises:
            ValueError: if it is not JSON, or as `path` does.
        """
        path = self.path(inside)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except RecursionError as error:
            raise ValueError(f"{inside} of {self.name} is nested too deeply. Do not trust it.") from error
        except ValueError as error:
            raise ValueError(f"{inside} of {self.name} is not JSON: {error}. Download or save it again.") from error

    def modules(self) -> list[dict[str, str]]:
        """List the sentence-transformers modules in order, each with `path` and `type`; empty without modules.json.

        Raises:
            ValueError: if modules.json is not a list of modules, or a module lies outside of the repository.
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
        """Return the folder of the module of a class, given its name; None without such a module.

        Raises:
            ValueError: if there are several such modules, or as `modules` does.
        """
        found = [entry["path"] for entry in self.modules() if entry["type"].rsplit(".", 1)[-1] == module]
        if len(found) > 1:
            raise ValueError(f"modules.json of {self.name} names {len(found)} {module} modules; one is expected.")
        return found[0] if found else None

    @property
    def is_packed(self) -> bool:
        """Whether the repository holds backbone and head as modules of sentence-transformers.

        The head is a `SparseAutoEncoder`, alone or inside of a `Router`; a `Router` without one is a backbone's.

        Raises:
            ValueError: if several modules hold a head, or as `modules` does.
        """
        found = [entry["path"] for entry in self.modules() if self._holds_head(entry)]
        if len(found) > 1:
            raise ValueError(f"modules.json of {self.name} names {len(found)} modules with a head; one is expected.")
        return bool(found)

    def _holds_head(self, entry: dict[str, str]) -> bool:
        kind = entry["type"].rsplit(".", 1)[-1]
        if kind != NATIVE_ROUTER:
            return kind == NATIVE_HEAD
        file = f"{entry['path']}/{ROUTER_SETTINGS}"
        content = self.read_json(file)
        types = content.get("types") if isinstance(content, dict) else None
        if not isinstance(types, dict):
            raise ValueError(f"{file} of {self.name} does not say which modules are in the {NATIVE_ROUTER}.")
        return any(str(inner).rsplit(".", 1)[-1] == NATIVE_HEAD for inner in types.values())


def open_repository(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    extra: Sequence[str] = (),
) -> Repository:
    """Open a folder, or download a Hub repository at one commit; offline, use the local Hub cache.

    Args:
        name_or_path: folder of a model, output folder of `csr-hf run` (its head is opened), or Hub id.
        revision: branch, tag or commit of a Hub repository.
        token: default the one of `hf auth login` or of HF_TOKEN.
        extra: patterns of files to download beside weights, settings and tokenizers.

    Raises:
        ValueError: if there is no such repository or revision, a revision of a folder is asked for, or there is no
            permission to read it, with what to do then.
    """
    name = str(name_or_path)
    model = RunFolder.of(name).model
    # A process may have been killed while it replaced them.
    restore(name)
    restore(model)
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"`revision` ({revision!r}) is of a repository on the Hub, but {name} is a folder here.")
        is_run = not Path(name, "config.json").is_file() and (model / "config.json").is_file()
        return Repository(name, model if is_run else Path(name))
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
            f"{name} is no folder here and not on the Hub, or it is private and you are not logged in as a user who "
            "may read it: `hf auth login`, or set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name} is not in the local cache{f' at revision {revision}' if revision else ''}, and the Hub does not "
            "answer (or HF_HUB_OFFLINE is set). Load it once while online."
        ) from error
    return Repository(name, Path(folder), Path(folder).name)


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form of a Hub id, `name` or `user/name`, and no local folder has that name."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()
