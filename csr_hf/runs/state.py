"""What the folder of a run is being made of, and what of it is done: the same command goes on, another is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from csr_hf.data.fingerprints import fingerprint_source
from csr_hf.data.run_data import RunData
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.distributed import from_first_process
from csr_hf.plumbing.locks import hold_folder
from csr_hf.plumbing.provenance import forget_flag
from csr_hf.publishing.files import CARD, find_written
from csr_hf.publishing.model_card import is_generated
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.training.arguments import INDIFFERENT

logger = logging.getLogger(__name__)

Kind = Literal["a run", "an index", "a sweep"]

_FORMAT = "csr_hf.run/1"
_NAMED = 3
_WAY_OUT = "choose another --output-dir, or start over with --overwrite"
_INDIFFERENT = {
    "output_dir",
    "cache_dir",
    "backbone.device",
    "backbone.batch_size",
    "index.questions",
    "search.threads",
    *(f"training.{name}" for name in INDIFFERENT),
}
"""Keys of a recipe that change nothing of what a run makes."""
_VARIED = {"model.hidden_dim", "model.k", "training.max_steps"}
"""Keys of a recipe that each combination of a sweep has for itself."""


@dataclass
class RunState:
    """What a run is made of, and which steps are done; `state.json` in its folder."""

    path: str
    """The folder of the run."""
    kind: Kind
    recipe: dict[str, Any]
    """Dotted keys and their values, as far as they change what a run makes."""
    data: list[dict[str, Any]]
    """Its sources, see `fingerprint_source`."""
    start: str | None = None
    """Fingerprint of the head that is trained further or indexed with."""
    head: str | None = None
    """Fingerprint of the run's own head, once there is one."""
    done: dict[str, Any] = field(default_factory=dict)
    """Steps that are done, each with what it says of itself."""

    @classmethod
    def of(cls, kind: Kind, recipe: RunRecipe, data: RunData, start: str | None) -> RunState:
        """Describe a run that is about to begin: nothing of it is done.

        Args:
            kind: "a run" trains a head, "an index" takes one, "a sweep" has a run for each combination.
            recipe: what to do.
            data: of the run, embedded.
            start: fingerprint of the head that it starts with; None for a fresh one.
        """
        sources = [fingerprint_source(source) for source in data.sources]
        return cls(recipe.output_dir, kind, _decisive_keys(kind, recipe), sources, start)

    @classmethod
    def read(cls, folder: RunFolder) -> RunState | None:
        """Read the state of a folder; None if it has none.

        Raises:
            ValueError: if the file is damaged.
        """
        if not folder.state.is_file():
            return None
        try:
            content = json.loads(folder.state.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError(f"it is not of the format {_FORMAT}")
            return cls(**{**content, "path": str(folder.path)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder.state} is damaged ({error}): {_WAY_OUT}.") from error

    def mark(self, step: str, said: Any = True) -> None:
        """Write down that a step is done."""
        self.done[step] = said
        self._save()

    def mark_head(self, fingerprint: str) -> None:
        """Write down that the head is in the folder."""
        self.head = fingerprint
        self._save()

    def check_same(self, other: RunState) -> None:
        """Refuse to go on with something else.

        Args:
            other: what is about to begin.

        Raises:
            ValueError: naming what differs.
        """
        self.check_same_recipe(other.kind, other.recipe)
        for then, now in zip(self.data, other.data, strict=True):
            if then["rows"] != now["rows"]:
                raise ValueError(
                    f"{self.path} holds {self.kind} on other data: {now['name']} had {then['rows']:,} rows and has "
                    f"{now['rows']:,}: {_WAY_OUT}."
                )
            if then != now:
                raise ValueError(
                    f"{self.path} holds {self.kind} on other data: rows of {now['name']} have changed: {_WAY_OUT}."
                )
        if self.start != other.start:
            raise ValueError(
                f"{self.path} holds {self.kind} with the head {self.start}, and {self.recipe.get('model.init')} is "
                f"now {other.start}: {_WAY_OUT}."
            )

    def check_same_recipe(self, kind: Kind, recipe: dict[str, Any]) -> None:
        """Refuse another kind of run, or a recipe that differs.

        Args:
            kind: of what is about to begin.
            recipe: its dotted keys and their values.

        Raises:
            ValueError: naming the first keys with both values.
        """
        if self.kind != kind:
            raise ValueError(f"{self.path} holds {self.kind}, and this would be {kind}: {_WAY_OUT}.")
        keys = [key for key in {**self.recipe, **recipe} if self.recipe.get(key) != recipe.get(key)]
        if not keys:
            return
        then = ", ".join(f"{key} {_show(self.recipe.get(key))}" for key in keys[:_NAMED])
        now = ", ".join(_show(recipe.get(key)) for key in keys[:_NAMED])
        more = f" ({len(keys) - _NAMED} more keys differ)" if len(keys) > _NAMED else ""
        longer = keys == ["training.max_steps"]
        further = f" In another folder, model.init={self.path} trains this head on." if longer else ""
        differs = f"{self.kind} with {then}, this recipe says {now}{more}"
        raise ValueError(f"{self.path} holds {differs}: {_WAY_OUT}.{further}")

    def _save(self) -> None:
        folder = RunFolder.of(self.path)
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        with write_whole(folder.state) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT, **content}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def open_run(new: RunState, *, overwrite: bool = False) -> Iterator[RunState]:
    """Begin a run in its folder, or go on with it; no other process may write there until the block ends.

    Args:
        new: what is about to begin.
        overwrite: start over: remove what the folder holds of a run, whatever it is.

    Yields:
        The state: `new`, or that of the same run with what is done.

    Raises:
        ValueError: if the folder holds something else, or another process writes there.
    """
    folder = RunFolder.of(new.path)
    with ExitStack() as stack:

        def begin() -> RunState:
            stack.enter_context(hold_folder(folder.path))
            return _begin(new, folder, overwrite)

        yield from_first_process(begin)


def check_recipe(kind: Kind, recipe: RunRecipe, *, overwrite: bool = False) -> None:
    """Refuse a recipe whose folder holds something else, before any time is spent on it; nothing is written.

    Args:
        kind: of the run.
        recipe: what is about to begin.
        overwrite: the folder will be emptied of its run.

    Raises:
        ValueError: naming what differs, or what the folder holds.
    """
    folder = RunFolder.of(recipe.output_dir)
    if overwrite:
        _check_removable(folder)
        return
    state = RunState.read(folder)
    if state is None:
        _check_empty(folder)
    else:
        state.check_same_recipe(kind, _decisive_keys(kind, recipe))


def _decisive_keys(kind: Kind, recipe: RunRecipe) -> dict[str, Any]:
    """Return the keys of a recipe that change what a run makes, dotted, with their values as JSON holds them."""
    keys, left_out = {}, _INDIFFERENT | (_VARIED if kind == "a sweep" else set())
    for section, value in recipe.to_dict().items():
        values = (
            {f"{section}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {section: value}
        )
        keys.update({key: each for key, each in values.items() if key not in left_out})
    found: dict[str, Any] = json.loads(json.dumps(keys))
    return found


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _begin(new: RunState, folder: RunFolder, overwrite: bool) -> RunState:
    """Compare a folder with what is about to begin, and write its state."""
    if overwrite:
        _remove_run(folder)
        # Interrupted from here on, the command goes on where it stopped: it must not start over once more.
        forget_flag("--overwrite")
    state = RunState.read(folder)
    if state is None:
        _check_empty(folder)
        new._save()
        return new
    state.check_same(new)
    return state


def _check_empty(folder: RunFolder) -> None:
    found = [*folder.contents, *folder.combinations]
    if found:
        names = ", ".join(path.name for path in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ValueError(f"{folder.path} holds {names}{more} of an earlier run or training: {_WAY_OUT}.")


def _check_removable(folder: RunFolder) -> None:
    """Refuse to start over beside a card that a person changed: it quotes the head that would go."""
    for path in (folder.path, *folder.combinations):
        card = path / CARD
        if card.is_file() and not is_generated(card.read_text(encoding="utf-8")):
            raise ValueError(
                f"{card} was written or changed by a person, and may quote the head that is there. Move it."
            )


def _remove_run(folder: RunFolder) -> None:
    """Remove all that a run wrote: figures first, so that none ever stands beside another head."""
    _check_removable(folder)
    card, combinations = _find_card(folder), folder.combinations
    found = [*folder.measured, *card, *folder.contents]
    # Without its state, a folder that is half removed is not taken for a run to go on with.
    folder.state.unlink(missing_ok=True)
    for path in dict.fromkeys(found):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in combinations:
        _remove_run(RunFolder.of(path))
    for path in ({path.parent for path in card} - {folder.path}).union(combinations):
        # Whatever a person has put there stays.
        if not any(path.iterdir()):
            path.rmdir()
    if found:
        names = dict.fromkeys(path.relative_to(folder.path).parts[0] for path in found)
        logger.info("overwrite  removed %s of the run in %s", ", ".join(names), folder.path)


def _find_card(folder: RunFolder) -> list[Path]:
    """Find a card that csr_hf wrote into the folder of a run, and what it quotes."""
    if not (folder.path / CARD).is_file():
        return []
    names = {path.name for path in folder.path.iterdir() if path.is_file()}
    names |= {f"results/{path.name}" for path in folder.path.glob("results/*")}
    names |= {f".eval_results/{path.name}" for path in folder.path.glob(".eval_results/*")}
    return [folder.path / name for name in sorted(find_written(names, []))]
