"""Write a head as one folder that every library of the ecosystem loads, with its card: what `csr-hf push` uploads."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csr_hf.embedding.loading import load_backbone_of
from csr_hf.heads import clean_config, find_fingerprint, is_head_config, load_head
from csr_hf.plumbing.atomic import write_whole
from csr_hf.publishing.backbone_facts import BackboneFacts, find_backbone_facts
from csr_hf.publishing.files import CARD, find_written
from csr_hf.publishing.latent_names import save_latents, take_latents
from csr_hf.publishing.layouts import Layout, choose_layout, default_layout
from csr_hf.publishing.model_card import is_generated, write_card
from csr_hf.publishing.model_card_facts import RESULTS, copy_run_files
from csr_hf.publishing.model_card_metadata import CardOptions
from csr_hf.publishing.sentence_transformers import native_name, write_full, write_head
from csr_hf.repository import Repository, is_hub_id, open_repository
from csr_hf.runs.folder import RunFolder

if TYPE_CHECKING:
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel


@dataclass(frozen=True)
class Loaded:
    """A backbone and a head in memory."""

    backbone: Backbone
    head: CSRModel
    run: Path | None = None
    """Folder of the run that trained the head, whose figures its card quotes."""


@dataclass(frozen=True)
class _Source:
    """What is exported, wherever it lies."""

    name: str
    head: CSRModel
    files: Path | None
    """Folder that may hold what a card quotes."""
    has_backbone: bool
    """Whether the backbone comes with the head."""
    weight_bytes: int | None
    """Of a backbone that comes with the head."""
    load: Callable[[], Backbone]
    """Loads the backbone."""

    @classmethod
    def open(cls, source: str | Path | Loaded, device: str | None) -> _Source:
        """Load the head of a source; its config and weights are the caller's to change."""
        if isinstance(source, Loaded):
            backbone, head = source.backbone, copy.deepcopy(source.head)
            sizes = sum(tensor.nbytes for tensor in backbone.model.state_dict().values())
            return cls(str(source.run or backbone.name), head, source.run, True, sizes, lambda: backbone)
        repository = open_repository(source, extra=[f"{RESULTS}/*"])
        head = load_head(repository)
        files = Path(source) if Path(source).is_dir() else repository.folder
        load = functools.partial(load_backbone_of, repository, head, device=device)
        return cls(str(source), head, files, repository.is_packed, _packed_bytes(repository), load)


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    folder: Path
    layout: Layout
    module: str
    """The class of sentence-transformers that holds the head."""
    reason: str
    """Why this layout."""
    notes: list[str]
    """Warnings for the user, one sentence each."""
    remote_code: bool = False
    """Whether the backbone needs code of its own repository, which its user must trust."""


def export(
    source: str | Path | Loaded,
    folder: str | Path,
    *,
    layout: Layout | None = None,
    base_model: str | None = None,
    card: CardOptions | None = None,
    device: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a head as a folder that can be uploaded to the Hub.

    `layout="full"` holds the backbone too: `SparseEncoder`, `CSREncoder`, `CSRModel` and `AutoModel` load it.
    `layout="head"` holds the head alone and names the backbone, which `CSREncoder` then loads from the Hub. A head of
    16 bits is written in float32, and one that no other layout can hold goes out alone; `Exported.reason` says why.

    Args:
        source: output folder of `csr-hf run`, folder or Hub id of a head, or what is loaded of one already.
        folder: the folder to write, whole or not at all; an earlier export of the same head is replaced.
        layout: default "full", and "head" above 1 GB of backbone weights.
        base_model: Hub id of the backbone; default what the head's config says.
        card: what the author adds to the model card.
        device: for the backbone.
        overwrite: also replace an export of another head, or with a card that a person changed.

    Raises:
        ValueError: if `source` is no head, `folder` holds something else or more than an earlier export of it, the
            backbone of a `layout="head"` is a folder, or that of a `layout="full"` cannot be loaded or needs code of
            its own.
        OSError: if the folder cannot be written; nothing is left behind.
    """
    import torch

    folder = check_target(folder, (source.run or source.backbone.name) if isinstance(source, Loaded) else source)
    opened = _Source.open(source, device)
    head = opened.head
    if not overwrite:
        check_same_head(folder, head)
    if head.dtype in (torch.float16, torch.bfloat16):
        # Every library then computes with it alike: one of 16 bits would be what each makes of it.
        head = head.float()
    config, base = head.config, base_model or head.config.base_model_name_or_path
    if config.base_model_name_or_path is None and not opened.has_backbone:
        if base is None:
            raise ValueError(
                f"{opened.name} names no backbone: its embeddings came with the data. Say which model made them with "
                "--base-model user/name. `csr-hf card` needs none."
            )
        config.base_model_name_or_path = base
    revision = config.base_model_revision if base == config.base_model_name_or_path else None
    facts = find_backbone_facts(base, revision=revision) if base else None
    # Before the name changes: the repository may not hold the backbone, and then its config says where to find it.
    choice = choose_layout(layout, _known_bytes(facts, opened.weight_bytes), opened.load)
    is_on_hub = base is not None and is_hub_id(base)
    notes = [] if is_on_hub else [_note_on_name(base, choice.layout, choice.obstacle)]
    config.base_model_name_or_path, config.base_model_revision = (base, revision) if is_on_hub else (None, None)
    latents, unnamed = take_latents(opened.files, head)
    notes += unnamed
    with write_whole(folder, folder=True) as temporary:
        temporary.mkdir()
        if choice.backbone is not None:
            write_full(choice.backbone, head, temporary)
        else:
            write_head(head, temporary)
        save_latents(latents, temporary)
        if opened.files is not None:
            notes += copy_run_files(opened.files, temporary, head.fingerprint)
        notes += write_card(temporary, choice.layout, (card or CardOptions()).called(opened.name), facts)
    notes = [note for note in notes if note]
    needs_code = choice.obstacle is not None
    return Exported(folder, choice.layout, native_name(head), choice.reason, notes, remote_code=needs_code)


def _note_on_name(base: str | None, layout: Layout, obstacle: str | None) -> str:
    """Word a warning on a backbone that is not on the Hub, empty if it is unknown; refuse one for a head alone."""
    if layout == "head":
        way_out = f"No export can hold it: {obstacle}. Say" if obstacle else "Use layout full (--layout full), or say"
        named = "the head names no backbone" if base is None else f"the backbone {base!r} is not on the Hub"
        raise ValueError(
            f"{named}, and a head alone must name one that others can fetch. "
            f"{way_out} which it is (--base-model user/name)."
        )
    return (
        f"the backbone {base} is a folder here: its name is left out (or give --base-model user/name)" if base else ""
    )


def write_card_folder(
    source: str | Path,
    folder: str | Path,
    *,
    layout: Layout | None = None,
    base_model: str | None = None,
    card: CardOptions | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a model card and what it quotes, without the weights: `README.md`, `config.json`, `results/`.

    Figures of an earlier card that this one does not quote are removed.

    Args:
        source: output folder of `csr-hf run`, an exported folder, an earlier folder of this function, or a Hub id.
        folder: where to write; may be `source`.
        layout: as for `export`.
        base_model: as for `export`.
        card: what the author adds to the model card.
        overwrite: replace a README.md that a person wrote or changed.

    Returns:
        Warnings for the user, one sentence each.

    Raises:
        ValueError: if `source` holds no head's config.json, or a person wrote or changed the README.md.
    """
    folder = Path(folder)
    readme = folder / "README.md"
    if readme.is_file() and not overwrite and not is_generated(readme.read_text(encoding="utf-8")):
        raise ValueError(f"{readme} was written or changed by a person. Use --overwrite-card to replace it.")
    repository = open_repository(source, extra=[f"{RESULTS}/*"])
    config = repository.read_json("config.json")
    if not is_head_config(config):
        raise ValueError(f"{repository.name} holds no CSR head: its config.json is not one's.")
    config = clean_config(config)
    base = base_model or config.get("base_model_name_or_path")
    if base != config.get("base_model_name_or_path"):
        config["base_model_revision"] = None
    facts = find_backbone_facts(base, revision=config.get("base_model_revision")) if base else None
    if layout is None:
        layout, _ = default_layout(_known_bytes(facts, _packed_bytes(repository)))
    config["base_model_name_or_path"] = base if base and is_hub_id(base) else None
    with write_whole(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    of_run = source if Path(source).is_dir() else repository.folder
    notes = copy_run_files(of_run, folder, find_fingerprint(repository))
    return notes + write_card(folder, layout, (card or CardOptions()).called(str(source)), facts)


def check_target(folder: str | Path, source: str | Path) -> Path:
    """Refuse to write an export where it would take the place of anything but an earlier export or import.

    Args:
        folder: where to write.
        source: what is exported.

    Returns:
        The folder, absolute.

    Raises:
        ValueError: if it exists and holds something else or more, is the head of a run, or holds the source.
    """
    folder = Path(folder).resolve()
    if folder.is_dir() and Path(source).exists() and Path(source).resolve().is_relative_to(folder):
        raise ValueError(f"{folder} holds what is to be read ({source}). Choose another folder to write.")
    is_head = (folder / "config.json").is_file() and (folder / "modeling_csr.py").is_file()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not is_head):
        raise ValueError(f"{folder} exists and is no exported head. Choose another folder to write, or remove it.")
    run = RunFolder.of(folder.parent)
    if run.is_run and folder == run.model:
        raise ValueError(
            f"{folder} is the head that the run in {run.path} has trained. Choose another folder to write."
        )
    others = _list_others(folder)
    if others:
        names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise ValueError(
            f"{folder} holds what no export writes ({names}), and would be replaced as a whole. Move that elsewhere, "
            "or choose another folder to write."
        )
    return folder


def check_same_head(folder: Path, head: CSRModel) -> None:
    """Refuse to replace an export of another head, or one whose card a person changed, where nobody has asked for it.

    Args:
        folder: where to write, see `check_target`.
        head: what is written.

    Raises:
        ValueError: naming what is there.
    """
    way_out = "Choose another folder to write, or replace it with --overwrite."
    if not (folder / "config.json").is_file():
        return
    readme = folder / CARD
    if readme.is_file() and not is_generated(readme.read_text(encoding="utf-8")):
        raise ValueError(f"{readme} was written or changed by a person, and would be replaced. {way_out}")
    try:
        earlier = load_head(open_repository(folder)).fingerprint
    except ValueError as error:
        raise ValueError(f"{folder} holds a head that cannot be read ({error}). {way_out}") from error
    new = head.fingerprint
    if earlier != new:
        raise ValueError(f"{folder} holds another head ({earlier}) than the one to write ({new}). {way_out}")


def _list_others(folder: Path) -> list[str]:
    """List files that no export writes; a folder without any that one writes is named as a whole."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix() for path in paths}
    written = find_written(names, Repository(str(folder), folder).modules())
    tops = {name.split("/")[0] for name in written}
    return sorted({name if name.split("/")[0] in tops else name.split("/")[0] for name in names - written})


def _known_bytes(facts: BackboneFacts | None, packed: int | None) -> int | None:
    """Return the bytes of a backbone's weights: of its own repository if known, else of what comes with the head."""
    return facts.weight_bytes if facts is not None and facts.weight_bytes is not None else packed


def _packed_bytes(repository: Repository) -> int | None:
    """Count the bytes of weights in a repository that holds the backbone; None if it does not."""
    if not repository.is_packed:
        return None
    return sum(path.stat().st_size for path in repository.folder.rglob("*.safetensors"))
