"""Embed texts and images with a frozen model of sentence-transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_hf.embedding.arguments import TASKS_OF_ROLES, BackboneSettings, Similarity, Task
from csr_hf.embedding.fingerprints import (
    describe_settings,
    digest_tokenizers,
    digest_weights,
    find_tokenizers,
)
from csr_hf.embedding.images import is_image, prepare_image
from csr_hf.embedding.inputs import as_sequence, check_text
from csr_hf.plumbing.devices import check_device
from csr_hf.plumbing.logs import shows_progress

if TYPE_CHECKING:
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

    from csr_hf.modeling_csr import CSRModel

# The names under which sentence-transformers' encode_query and encode_document look for a prompt.
_PROMPTS_OF_TASKS: dict[Task, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


class Backbone:
    """A frozen SentenceTransformer for text, images or both, and where it came from.

    Args:
        model: the loaded model. Prompts, lengths and similarity of `settings` are set on it.
        name: Hub id or folder; a head's config records it as `base_model_name_or_path`.
        revision: commit on the Hub, when known.
        source: where the weights came from, for messages.
        settings: how the model is used where that differs from its own habits; heads record it.

    Attributes:
        dim: width of the embeddings.

    Raises:
        ValueError: if a setting does not fit the model.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        name: str,
        revision: str | None = None,
        source: str = "memory",
        settings: BackboneSettings | None = None,
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.revision = revision
        self.source = source
        self.settings = settings or BackboneSettings()
        _apply(self.settings, model, name)
        self.dim = _measure_dimension(model)
        self._digests: tuple[list[Any], bytes] | None = None
        self._tells_tasks_apart = _tells_tasks_apart(model)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of input that the model embeds: "text", "image" or both, in alphabetical order."""
        return tuple(sorted({"text", "image"} & set(self.model.modalities)))

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompt texts, by name."""
        return {name: prompt or "" for name, prompt in self.model.prompts.items()}

    @property
    def similarity_fn_name(self) -> Similarity:
        """How the embeddings are compared, by sentence-transformers' names: cosine, dot, euclidean or manhattan."""
        return self.model.similarity_fn_name

    @property
    def fingerprint(self) -> str:
        """A hash of all that changes an embedding: weights, tokenizers, processors, prompts and settings.

        The same model has the same fingerprint whether it was loaded from the Hub or from a folder. Weights are read
        once: they are frozen.
        """
        tokenizers = find_tokenizers(self.model)
        if self._digests is None or not _are_same(self._digests[0], tokenizers):
            self._digests = tokenizers, digest_weights(self.model) + digest_tokenizers(tokenizers)
        settings = describe_settings(self.model, self.prompt(None))
        return hashlib.blake2b(self._digests[1] + settings.encode(), digest_size=12).hexdigest()

    def embed(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        batch_size: int = 32,
        *,
        task: Task | None = None,
        prompt: str | None = None,
        show_progress_bar: bool | None = None,
        device: str | list[str] | None = None,
        chunk_size: int | None = None,
    ) -> np.ndarray:
        """Embed texts and images, for a task as `encode_query` and `encode_document` of the model do.

        Args:
            inputs: texts, images, or both mixed, in a list or whatever `as_sequence` of `csr_hf.embedding.inputs`
                takes; see `modalities_of`. The model cuts texts at its maximum length.
            prompt_name: one of the prompts, which is put before texts, see `prompt`. None for that of the task.
            batch_size: inputs in one forward pass.
            task: "query" or "document": chooses the prompt, if none is given, and the tower of a `Router`.
            prompt: the text to put before texts, instead of a prompt with a name; "" for none.
            show_progress_bar: None draws bars on terminals, if there are several batches and bars are not disabled.
            device: where to embed; several, such as ["cuda:0", "cuda:1"], work in processes of their own. Default
                where the model is.
            chunk_size: inputs that such a process gets at a time; default sentence-transformers'.

        Returns:
            float32, shape (n, dim).

        Raises:
            ValueError: as `modalities_of` does, if the prompt or the task is unknown, an image is broken, or a device
                cannot be used.
        """
        inputs = as_sequence(inputs)
        if show_progress_bar is None:
            show_progress_bar = len(inputs) > batch_size and shows_progress()
        chosen = self.prompt(prompt_name, task) if prompt is None else prompt
        options: dict[str, Any] = {"prompt": chosen, "device": check_device(device), "chunk_size": chunk_size}
        if task is not None:
            options["task"] = task
        kinds, as_text = np.array(self.modalities_of(inputs), object), _text_marker(self.model.modalities)
        embeddings = np.zeros((len(inputs), self.dim), np.float32)
        for kind in dict.fromkeys(kinds):
            rows = np.flatnonzero(kinds == kind)
            # Images are opened a few batches at a time: all at once might not fit into memory.
            step = len(rows) if kind == "text" else 8 * batch_size
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                embeddings[part] = self.model.encode(
                    [as_text(inputs[row]) if kind == "text" else _open_input(inputs, int(row)) for row in part],
                    **options,
                    batch_size=batch_size,
                    show_progress_bar=show_progress_bar,
                    convert_to_numpy=True,
                )
        return embeddings

    def to(self, target: Any) -> Backbone:
        """Move the model to a device, or convert its weights to a float type; return itself."""
        self.model.to(target)
        self._digests = None
        return self

    def modalities_of(self, inputs: Sequence[Any]) -> list[str]:
        """Tell for each input which tower embeds it: "text" or "image".

        Images are those of PIL, arrays, tensors, encoded bytes, `Path`s, data URLs, and strings that name an image
        file; all other strings are texts. A backbone that embeds no images takes every string as a text.

        Raises:
            ValueError: for one string instead of a list and whatever else is no sequence, a missing value, or an input
                that the backbone cannot embed; its position is named.
        """
        known = self.modalities
        return [self._modality_of(value, position, known) for position, value in enumerate(as_sequence(inputs))]

    def _modality_of(self, value: object, position: int, known: tuple[str, ...]) -> str:
        if "image" in known and is_image(value):
            return "image"
        if isinstance(value, str):
            if "text" not in known:
                raise ValueError(
                    f"inputs[{position}] ({value[:40]!r}) names no image file, and {self.name} embeds no text. "
                    "Give the path of an image, or use a CLIP model for texts."
                )
            check_text(value, f"inputs[{position}]")
            return "text"
        if is_image(value) and not isinstance(value, bytes | np.ndarray) and not hasattr(value, "dtype"):
            raise ValueError(
                f"inputs[{position}] is an image, and {self.name} embeds text alone. Use a CLIP model for images."
            )
        check_text(value, f"inputs[{position}]")
        return "text"

    def prompt(self, prompt_name: str | None, task: Task | None = None) -> str | None:
        """Look up the text that is put before every text; None for none.

        Args:
            prompt_name: a prompt of the model, a role of the data (see `BackboneSettings.prompts`), or "query" or
                "document", which are known to every backbone. None for that of the task.
            task: gets the prompt that `encode_query` and `encode_document` of sentence-transformers choose: "query";
                the first there is of "document", "passage" and "corpus"; else the model's default prompt. None for
                the default prompt.

        Raises:
            ValueError: if the name or the task is unknown.
        """
        prompts = self.prompts
        if prompt_name is not None:
            own = self.settings.prompt_text(prompt_name, prompts)
            if own is not None or prompt_name in prompts:
                return prompts[prompt_name] if own is None else own
            if prompt_name not in (*TASKS_OF_ROLES, *_PROMPTS_OF_TASKS):
                known = ", ".join(sorted(prompts)) or "none"
                raise ValueError(f"`prompt_name` ({prompt_name!r}) is unknown to {self.name}. Its prompts: {known}.")
            task = task or TASKS_OF_ROLES.get(prompt_name, prompt_name)  # type: ignore[arg-type]
        if task is not None and task not in _PROMPTS_OF_TASKS:
            raise ValueError(f"`task` ({task!r}) must be query or document, or None for neither.")
        names = _PROMPTS_OF_TASKS[task] if task else ()
        name = next((name for name in names if name in prompts), self.model.default_prompt_name or "")
        return prompts.get(name)

    def effective_task(self, task: Task | None) -> Task | None:
        """Return a task if it changes more than the prompt; None where the model embeds queries like documents."""
        return task if self._tells_tasks_apart else None


def check_width(backbone: Backbone, head: CSRModel) -> None:
    """Raise ValueError if the width of a backbone's embeddings is not the head's `input_dim`."""
    if backbone.dim != head.config.input_dim:
        raise ValueError(
            f"backbone {backbone.name} gives {backbone.dim} dimensions, the head takes `input_dim` "
            f"{head.config.input_dim} (it was trained on {head.config.base_model_name_or_path}). "
            "Use that backbone, or train a head for this one."
        )


def _apply(settings: BackboneSettings, model: SentenceTransformer, name: str) -> None:
    """Set on a model what of its settings can be changed after loading."""
    known = {name: prompt or "" for name, prompt in model.prompts.items()}
    # Resolved together: one prompt may name another that is replaced too.
    chosen = {key: settings.prompt_text(key, known) or "" for key in settings.prompts}
    model.prompts.update({key: text for key, text in chosen.items() if key in _PROMPTS_OF_TASKS})
    if settings.max_seq_length is not None:
        _set_length(model, settings.max_seq_length, name)
    if settings.truncate_dim is not None:
        model.truncate_dim = settings.truncate_dim
    if settings.similarity is not None:
        model.similarity_fn_name = settings.similarity


def _set_length(model: SentenceTransformer, length: int, name: str) -> None:
    """Cut texts after `length` tokens, in every tower that cuts any."""
    from sentence_transformers.base.modules import Router

    first: Any = model[0]
    towers: list[Any] = (
        [next(tower.children()) for tower in first.sub_modules.values()] if isinstance(first, Router) else [first]
    )
    changed = 0
    for tower in towers:
        positions = _count_positions(tower)
        if positions is not None and positions < length:
            raise ValueError(
                f"`max_seq_length` ({length}) is above what {name} has positions for ({positions}). Lower it."
            )
        declared = getattr(type(tower), "max_seq_length", None)
        # Static embeddings take texts of any length, and have nothing to set.
        if not isinstance(declared, property) or declared.fset is not None:
            tower.max_seq_length = length
            changed += 1
    if not changed:
        raise ValueError(f"`max_seq_length` ({length}) cannot be set: {name} takes texts of any length. Leave it out.")


def _count_positions(tower: Any) -> int | None:
    """Count the tokens that a tower has positions for; None where it says nothing."""
    config: Any = getattr(tower, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    table = getattr(getattr(getattr(tower, "model", None), "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its kin count from behind the position of padding.
    return positions if padding is None else positions - padding - 1


def _are_same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(one is other for one, other in zip(first, second, strict=True))


def _text_marker(modalities: list[Any]) -> Callable[[str], str | dict[str, str]]:
    """Return a function that marks a text which sentence-transformers would take for an address, and fetch."""
    from sentence_transformers.base.modality import infer_modality

    if modalities == ["text"]:
        return lambda text: text
    return lambda text: text if infer_modality(text, modalities) == "text" else {"text": text}


def _open_input(inputs: Sequence[Any], row: int) -> Image | np.ndarray:
    value = inputs[row]
    return prepare_image(value, str(value)[:200] if isinstance(value, (str, Path)) else f"inputs[{row}]")


def _measure_dimension(model: SentenceTransformer) -> int:
    """Return the width of the embeddings; models that do not declare it embed one input."""
    with model.truncate_embeddings(None):
        dim = model.get_embedding_dimension()
        if dim is None:
            dim = int(model.encode([_shortest_input(model)], show_progress_bar=False).shape[-1])
    return dim if model.truncate_dim is None else min(dim, model.truncate_dim)


def _shortest_input(model: SentenceTransformer) -> Any:
    """Make an input that every tokenizer has a token for, or an image where texts are not embedded."""
    if "text" not in model.modalities:
        from PIL import Image

        return Image.new("RGB", (32, 32))
    tokenizer = find_tokenizers(model)[:1]
    vocabulary = tokenizer[0].get_vocab() if tokenizer and hasattr(tokenizer[0], "get_vocab") else {}
    special = getattr(tokenizer[0], "all_special_tokens", []) if tokenizer else []
    # A letter or a sign of its own alphabet.
    return next((token for token in vocabulary if len(token) == 1 and token not in special), "width")


def _tells_tasks_apart(model: SentenceTransformer) -> bool:
    """Return whether a model may embed a text otherwise as a query than as a document, prompts aside."""
    # A `Router` and modules with code of their own say so.
    if "task" in model.get_model_kwargs():
        return True
    for module in model:
        if not type(module).__module__.startswith("sentence_transformers."):
            return True
        lengths = [getattr(module, name, None) for name in ("query_length", "document_length", "query_expansion")]
        # A chat template may read the task.
        if any(length is not None for length in lengths) or "message" in getattr(module, "modality_config", ()):
            return True
    return False
