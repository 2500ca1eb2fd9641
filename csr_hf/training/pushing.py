"""Publish a head when its training ends; a card, results and the backbone are the business of `publishing`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csr_hf.heads import holds_other_model
from csr_hf.modeling_csr import CSRModel
from csr_hf.plumbing.atomic import write_whole
from csr_hf.repository import is_hub_id
from csr_hf.training.arguments import CSRTrainingArguments

logger = logging.getLogger(__name__)


def prepare_push(args: CSRTrainingArguments, model: CSRModel) -> str:
    """Make the repository before any time is spent on the training, and check that the head may go there.

    Args:
        args: name and privacy of the repository; without a name, it is that of the output folder.
        model: the head.

    Returns:
        The full name of the repository.

    Raises:
        ValueError: if the token may not write there, the name is not valid, the repository holds another model, is
            public against `hub_private_repo`, or the backbone is a folder, which others cannot fetch.
        OSError: if the Hub does not answer.
    """
    from huggingface_hub import HfApi

    base = model.config.base_model_name_or_path
    if base is not None and not is_hub_id(base):
        raise ValueError(
            f"`push_to_hub`: the backbone {base!r} is not on the Hub, and a head must name one that others can fetch. "
            "Set push_to_hub to false, and publish head and backbone together: csr-hf push --layout full."
        )
    api, wanted = HfApi(), args.hub_model_id or Path(args.output_dir or "").resolve().name
    with _explaining(wanted):
        repo_id = api.create_repo(wanted, private=args.hub_private_repo or None, exist_ok=True).repo_id
        info = api.model_info(repo_id)
        if args.hub_private_repo and not info.private:
            raise ValueError(f"`hub_model_id`: {repo_id} exists and is public. Make it private, or choose a new name.")
        present = set(api.list_repo_files(repo_id, revision=info.sha))
        if holds_other_model(api, repo_id, info.sha, present):
            raise ValueError(f"`hub_model_id`: {repo_id} holds another model. Choose a new name.")
    return str(repo_id)


def push_head(model: CSRModel, repo_id: str, folder: Path) -> None:
    """Write a head into a folder, and publish it from there as one commit.

    Args:
        model: the head.
        repo_id: of `prepare_push`.
        folder: written whole; an older one is replaced. It stays if the push fails.

    Raises:
        ValueError: if the token may not write there any more.
        OSError: if the upload failed; the folder is named.
    """
    from huggingface_hub import HfApi

    with write_whole(folder, folder=True) as temporary:
        model.save_pretrained(temporary)
    with _explaining(repo_id, f" The head is in {folder}."):
        commit = HfApi().upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Push a CSR head with csr_hf"
        )
    logger.info("pushed     %s", commit.commit_url)


@contextmanager
def _explaining(repo_id: str, kept: str = "") -> Iterator[None]:
    """Turn errors of the Hub into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"`hub_model_id` ({repo_id!r}) is not a name on the Hub. Give user/name.") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise ValueError(
                f"`push_to_hub`: no right to write to {repo_id}. Log in with `hf auth login`, or set HF_TOKEN.{kept}"
            ) from error
        raise OSError(f"the Hub refused the push to {repo_id}: {str(error).splitlines()[0]}{kept}") from error
    except (ValueError, KeyboardInterrupt):
        raise
    # The HTTP library below huggingface_hub has its own errors, which change with its version.
    except Exception as error:
        raise OSError(f"the push to {repo_id} failed ({str(error) or type(error).__name__}).{kept}") from error
