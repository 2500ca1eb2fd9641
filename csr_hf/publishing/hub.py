"""Push an exported folder to the Hub, as one commit or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from csr_hf.heads import holds_other_model
from csr_hf.publishing.files import CARD, find_written
from csr_hf.publishing.model_card import is_generated
from csr_hf.repository import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """Where a model was published."""

    repo_id: str
    commit: str
    revision: str | None
    """Branch, or the reference of the pull request; None for the main branch."""
    url: str


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    edited_card: Literal["refuse", "keep", "overwrite"] = "refuse",
    token: str | bool | None = None,
) -> Pushed:
    """Publish a folder that `export` wrote, as one commit.

    Files of an earlier push that this one does not write are deleted, and named in the log; what a person added stays.
    An interrupted push publishes nothing; the same call again completes it. If somebody else commits between the
    reading of the repository and this commit, the commit is refused.

    Args:
        folder: the exported folder.
        repo_id: `user/name`. A missing repository is created.
        private: create it as a private repository.
        create_pr: open a pull request instead of committing.
        revision: branch to commit to, created if missing; default the main branch.
        edited_card: what to do with a model card on the Hub that a person wrote or changed.
        token: default the one of `hf auth login` or of HF_TOKEN.

    Raises:
        ValueError: if the repository holds a model of another kind, a person wrote or changed its card, it is public
            and `private` is given, the name is not valid, or the token may not write there.
        OSError: if the upload was interrupted.
    """
    from huggingface_hub import HfApi

    with explained(repo_id):
        return _push(HfApi(token=token), Path(folder), repo_id, private, create_pr, revision, edited_card)


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Say what to do about what an upload raises.

    Raises:
        ValueError: if the Hub refuses it.
        OSError: if it was interrupted.
    """
    from huggingface_hub import errors

    try:
        yield
    except (ValueError, KeyboardInterrupt):
        raise
    except errors.HfHubHTTPError as error:
        raise _explain(error, repo_id) from error
    # The HTTP library below huggingface_hub has its own errors, which change with its version.
    except Exception as error:
        raise OSError(
            f"the upload to {repo_id} was interrupted ({str(error) or type(error).__name__}). Nothing of it was "
            "published; the same command again completes it."
        ) from error


def _push(
    api: HfApi,
    folder: Path,
    repo_id: str,
    private: bool,
    create_pr: bool,
    revision: str | None,
    edited_card: str,
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    check_name(repo_id)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise ValueError(
            f"{repo_id} exists and is public. Make it private in its settings first, or choose a new name."
        )
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    parent = api.model_info(repo_id, revision=revision).sha
    present = set(api.list_repo_files(repo_id, revision=parent))
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if holds_other_model(api, repo_id, parent, present):
        raise ValueError(f"{repo_id} holds another model. Choose a new name, or another branch (--revision).")
    if CARD in present and not _may_replace(api, repo_id, parent, edited_card):
        paths.pop(CARD)
    modules = _list_modules(api, repo_id, parent) if "modules.json" in present else []
    stale = sorted(find_written(present, modules) - paths.keys() - {CARD})
    done = api.create_commit(
        repo_id,
        operations=[
            *(CommitOperationAdd(name, str(path)) for name, path in paths.items()),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message="Push a CSR head with csr_hf",
        revision=revision,
        create_pr=create_pr,
        parent_commit=parent,
    )
    if stale:
        logger.info("this push deletes files of an earlier one from %s: %s", repo_id, ", ".join(stale))
    return Pushed(repo_id, done.oid, done.pr_revision or revision, done.pr_url or done.repo_url.url)


def _list_modules(api: HfApi, repo_id: str, commit: str | None) -> list[dict[str, str]]:
    """List the modules that the earlier push wrote, each in a folder of its own."""
    path = Path(api.hf_hub_download(repo_id, "modules.json", revision=commit))
    return Repository(repo_id, path.parent, commit).modules()


def _may_replace(api: HfApi, repo_id: str, commit: str | None, edited_card: str) -> bool:
    """Tell whether the generated card may replace the one on the Hub."""
    card = Path(api.hf_hub_download(repo_id, CARD, revision=commit)).read_text(encoding="utf-8")
    if is_generated(card) or edited_card == "overwrite":
        return True
    if edited_card == "keep":
        return False
    raise ValueError(
        f"the model card of {repo_id} was written or changed by a person. Use --keep-card to leave it as it is, or "
        "--overwrite-card to replace it by the generated one."
    )


def check_name(repo_id: str) -> None:
    """Check the form of a name on the Hub.

    Raises:
        ValueError: if it is not `user/name`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id, re.ASCII):
        raise ValueError(f"{repo_id!r} is not a name on the Hub. Give user/name.")


def _explain(error: Exception, repo_id: str) -> Exception:
    """Turn an HTTP error of the Hub into one that says what to do."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return ValueError(
            f"no right to write to {repo_id}: log in with `hf auth login`, or set HF_TOKEN, with a token that has the "
            "write permission there."
        )
    if status == 412:
        return OSError(f"somebody changed {repo_id} just now; nothing was published. Look at it, then push again.")
    return OSError(f"the Hub refused the push to {repo_id}: {str(error).splitlines()[0]} Nothing was published.")
