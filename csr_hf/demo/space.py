"""A Space: the page of a run with all that it needs, as a folder, and pushed to the Hub as one commit."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from csr_hf.demo.dense import find_dense, save_dense
from csr_hf.demo.page import import_gradio
from csr_hf.demo.thumbnails import add_thumbnails
from csr_hf.plumbing.atomic import check_writable, write_whole
from csr_hf.publishing.export import export
from csr_hf.publishing.hub import check_name, explained
from csr_hf.publishing.layouts import Layout
from csr_hf.publishing.model_card import CardOptions
from csr_hf.repository import is_hub_id
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.searcher import RunSearcher
from csr_hf.search_index import SearchIndex
from csr_hf.search_inputs import THUMBNAIL

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_CARD, _RUN = "README.md", "run"
_MARK = "<!-- written by csr-hf push --space -->"
_APP = '''"""A page to try the search of a run of csr_hf."""

from pathlib import Path

from csr_hf.demo.app import serve_space

serve_space(Path(__file__).with_name("run"), title={title!r})
'''
_ABOUT = """{mark}
# {title}

Ask in words, slide how many latents of a code count, and see the hits beside those of the dense embeddings, with the
bytes and the time that both need; see what latents stand for; compare two texts.

{size:,} documents as sparse codes of `{backbone}`, made with csr_hf.
"""


@dataclass(frozen=True)
class PushedSpace:
    """Where a Space was published."""

    repo_id: str
    commit: str
    url: str


def write_space(
    run: str | Path,
    folder: str | Path,
    *,
    title: str = "",
    layout: Layout | None = None,
    base_model: str | None = None,
    license: str | None = None,
    device: str | None = None,
) -> list[str]:
    """Write the page of a run as the folder of a Space: app, requirements, README, and the run itself.

    Texts, thumbnails of pictures and metadata of all documents that are not deleted go along, as do names of latents
    and the embeddings of the documents; the data, image files and the paths of the recipe do not.

    Args:
        run: output folder of `csr-hf run` or `csr-hf index`.
        folder: to write, whole or not at all.
        title: default the name of the run.
        layout: "full" with the backbone, "head" without; default as for `export`.
        base_model: Hub id of the backbone.
        license: of the Space.
        device: of the backbone.

    Returns:
        Warnings for the user, one sentence each.

    Raises:
        ImportError: if gradio is missing, whose version the Space asks for.
        ValueError: if the run is not finished, or has no index of the library's own, or the folder holds something
            else than an earlier Space.
        OSError: if the folder cannot be written; nothing is left behind.
    """
    gradio = import_gradio()
    check_writable(Path(folder).parent)
    _check_target(Path(folder))
    files = RunFolder.of(run)
    searcher = RunSearcher.load(run, device=device)
    index, backbone = searcher.index, searcher.encoder.backbone
    if not isinstance(index, SearchIndex) or backbone is None:
        raise ValueError(f"{run} has no backbone, so that no question can be embedded.")
    # What was deleted is not published.
    index.index.compact()
    dense = find_dense(files, index.index, backbone) if len(index) else None
    notes = add_thumbnails(files, index.index)
    title = title or files.path.resolve().name
    with write_whole(folder, folder=True) as temporary:
        temporary.mkdir()
        inside = RunFolder.of(temporary / _RUN)
        inside.path.mkdir()
        card = CardOptions(license=license)
        exported = export(run, inside.model, layout=layout, base_model=base_model, card=card, device=device)
        index.save(inside.path)
        if dense is not None and dense.rows is not None:
            save_dense(inside, dense.rows)
        for source, target in ((files.latents, inside.latents), (inside.model / "results/recipe.yaml", inside.recipe)):
            if source.is_file():
                shutil.copyfile(source, target)
        (temporary / "app.py").write_text(_APP.format(title=title), encoding="utf-8")
        (temporary / "requirements.txt").write_text(_list_requirements(THUMBNAIL in index.columns), encoding="utf-8")
        base = base_model or searcher.encoder.head.config.base_model_name_or_path or backbone.name
        front = _describe(title, gradio.__version__, base, license)
        about = _ABOUT.format(mark=_MARK, title=title, size=len(index), backbone=Path(base).name)
        (temporary / _CARD).write_text(front + about, encoding="utf-8")
    return [*exported.notes, *notes, *([dense.reason] if dense is not None and dense.reason else [])]


def _check_target(folder: Path) -> None:
    """Refuse to write where something else than a Space is, which would be replaced as a whole."""
    card = folder / _CARD
    is_space = card.is_file() and _MARK in card.read_text(encoding="utf-8", errors="replace")
    if folder.is_dir() and any(folder.iterdir()) and not is_space:
        raise ValueError(f"{folder} exists and is no Space of csr_hf. Choose another folder to write, or remove it.")


def push_space(
    folder: str | Path, repo_id: str, *, private: bool = False, token: str | bool | None = None
) -> PushedSpace:
    """Publish a folder that `write_space` wrote, as one commit; files of an earlier push are replaced or deleted.

    Args:
        folder: the folder.
        repo_id: `user/name`. A missing Space is created.
        private: create it as a private one.
        token: default the one of `hf auth login` or of HF_TOKEN.

    Raises:
        ValueError: if there is a Space that something else wrote, it is public and `private` is given, the name is
            not valid, or the token may not write there.
        OSError: if the upload was interrupted; nothing of it was published.
    """
    from huggingface_hub import HfApi

    check_name(repo_id)
    with explained(repo_id):
        return _push(HfApi(token=token), Path(folder), repo_id, private)


def _push(api: HfApi, folder: Path, repo_id: str, private: bool) -> PushedSpace:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    info = api.space_info(repo_id)
    if private and not info.private:
        raise ValueError(f"{repo_id} exists and is public. Make it private in its settings, or choose a new name.")
    present = set(api.list_repo_files(repo_id, repo_type="space", revision=info.sha))
    ours = present & {_CARD, "app.py"}
    if ours and not _is_written(api, repo_id, info.sha, present):
        raise ValueError(f"{repo_id} is a Space that something else wrote. Choose a new name.")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    paths = {name: path for name, path in paths.items() if not name.endswith(".lock")}
    stale = sorted(name for name in present - paths.keys() if name.startswith(f"{_RUN}/"))
    done = api.create_commit(
        repo_id,
        repo_type="space",
        operations=[
            *(CommitOperationAdd(name, str(path)) for name, path in paths.items()),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message="Push a page of csr_hf",
        parent_commit=info.sha,
    )
    if stale:
        logger.info("this push deletes %d files of an earlier one from %s", len(stale), repo_id)
    return PushedSpace(repo_id, done.oid, str(url))


def _is_written(api: HfApi, repo_id: str, commit: str | None, present: set[str]) -> bool:
    """Tell whether the Space is an earlier push, or as the Hub makes a new one."""
    if _CARD not in present:
        return False
    path = api.hf_hub_download(repo_id, _CARD, repo_type="space", revision=commit)
    content = Path(path).read_text(encoding="utf-8", errors="replace")
    return _MARK in content or "app.py" not in present


def _list_requirements(has_pictures: bool) -> str:
    """List the packages of the Space, which needs no clone of the repository."""
    from csr_hf import __version__

    extras = "demo,images" if has_pictures else "demo"
    return f"csr_hf[{extras}]=={__version__}\n"


def _describe(title: str, gradio: str, backbone: str, license: str | None) -> str:
    """Write the front matter that the Hub reads."""
    content = {
        "title": title,
        "emoji": "🔎",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": "3.11",
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Sparse codes beside dense embeddings",
        "tags": ["csr_hf", "sparse-embeddings", "semantic-search"],
    }
    if is_hub_id(backbone) and "/" in backbone:
        content["models"] = [backbone]
    if license:
        content["license"] = license
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n\n"
