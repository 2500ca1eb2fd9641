"""What the commands take that export and publish a head, or take one over."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from csr_hf.cli.options import Count, Overwriting
from csr_hf.plumbing.settings import Flag, settings


@settings
class CardSettings:
    """What goes into an exported folder and its card."""

    layout: Literal["full", "head"] | None = None
    """With the backbone, or the head alone (default: full, and head above 1 GB of backbone weights)."""
    base_model: str | None = None
    """Hub id of the backbone (default: what the head's config says)."""
    license: str | None = None
    """License of the head (default: the backbone's)."""
    dataset: Annotated[list[str], Flag(parse=str)] = field(default_factory=list)
    """Hub id of training data; may be repeated."""


@settings
class FolderOptions(CardSettings):
    """Flags of the commands that write a card into a folder."""

    model: Annotated[str, Flag(nargs="")]
    """Output folder of `csr-hf run`, or folder or Hub id of a head."""
    output: Annotated[Path, Flag(nargs="")]
    """Folder to write."""
    repo_id: str | None = None
    """user/name that the card shows (default: user/ and the name of the run)."""


@settings
class ExportOptions(FolderOptions, Overwriting):
    """Flags of `csr-hf export`."""


@settings
class CardFlags(FolderOptions):
    """Flags of `csr-hf card`."""

    overwrite_card: bool = False
    """Replace a card that a person changed."""


@settings
class PushOptions(CardSettings):
    """Flags of `csr-hf push`."""

    model: Annotated[str, Flag(nargs="")]
    """Output folder of `csr-hf run`, or folder or Hub id of a head."""
    repo_id: Annotated[str | None, Flag(nargs="?")] = None
    """user/name on the Hub, unless --space is given."""
    space: str | None = None
    """Publish a page to try the search as this Space (user/name), with index and texts, instead of the head."""
    overwrite_card: bool = False
    """Replace a card that a person changed."""
    keep_card: bool = False
    """Leave a card that a person changed as it is."""
    private: bool = False
    """Make the repository private."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    revision: str | None = None
    """Branch to commit to; created if there is none (default: main)."""


@settings
class ImportOptions(Overwriting):
    """Flags of `csr-hf import`."""

    source: Annotated[str, Flag(nargs="")]
    """Folder or Hub id of a SparseEncoder or SparseAutoEncoder, or a .pth or .safetensors file."""
    output: Annotated[Path, Flag(nargs="")]
    """Folder to write."""
    base_model: str | None = None
    """The backbone it was trained on, when it does not come with one."""
    k: Count | None = None
    """Active latents (default: what the file or its name says)."""
    file: str | None = None
    """A .pth or .safetensors file inside the folder or repository."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository."""
