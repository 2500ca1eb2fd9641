"""Encode dense embeddings into sparse codes and decode them. A copy of this file is saved in each model repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file, resolve_revision

from .configuration_csr import CSRConfig, refuse_unsupported
from .head_weights import FingerprintedModel, check_file, check_values, read_file
from .least_squares import fit, pursue

# Floats in one work array (128 MB): more rows are refined in several parts.
_WORK_FLOATS = 1 << 25
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass
class CSROutput(ModelOutput):
    """Output of `CSRModel.forward`.

    Attributes:
        loss: reconstruction error at k, squared, summed over dimensions, averaged over the batch; a scalar.
        code_values: values of the active latents, descending, shape (..., k).
        code_indices: numbers of the active latents, int64, shape (..., k).
        reconstruction: embeddings decoded from the codes, shape (..., input_dim).
    """

    loss: torch.Tensor | None = None
    code_values: torch.Tensor | None = None
    code_indices: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class CSRModel(FingerprintedModel):
    r"""A sparse autoencoder with a TopK activation on frozen embeddings (arXiv 2503.01776, equations 2 and 3).

    .. code-block:: text

        z     = ReLU(top_k(W (x - pre_bias) + latent_bias))
        x_hat = W^T z + pre_bias                (tied; with `tied_decoder=False` another matrix replaces W^T)

    Parameters keep the names of sentence-transformers' `SparseAutoEncoder`: `encoder.weight` (hidden_dim, input_dim),
    `pre_bias` (input_dim,), `latent_bias` (hidden_dim,). The buffer `stats_last_nonzero` (hidden_dim,) counts, for
    each latent, the training examples since it was last active; only training changes it.

    A head of several modalities has two more buffers: `modality_bias` (modalities, input_dim), the means that
    `subtract_modality_mean` subtracts, and `modality_last_nonzero` (modalities, hidden_dim), the count of each latent
    over the examples of one modality.

    Embeddings have up to two vectors subtracted: first the mean of their modality, by the caller, with
    `subtract_modality_mean`; then `pre_bias`, inside `encode` and its relatives. "Centered" means minus `pre_bias`.
    """

    config_class = CSRConfig
    config: CSRConfig
    _auto_class = "AutoModel"  # type: ignore[assignment]
    stats_last_nonzero: torch.Tensor
    modality_bias: torch.Tensor
    modality_last_nonzero: torch.Tensor
    base_model_prefix = "csr"
    main_input_name = "embeddings"
    _no_split_modules: list[str] = []  # noqa: RUF012 - the attribute transformers reads

    def __init__(self, config: CSRConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Linear(config.input_dim, config.hidden_dim, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(config.input_dim))
        self.latent_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        if not config.tied_decoder:
            self.decoder = nn.Linear(config.hidden_dim, config.input_dim, bias=False)
        self.register_buffer("stats_last_nonzero", torch.zeros(config.hidden_dim, dtype=torch.long))
        if config.modalities:
            count = len(config.modalities)
            self.register_buffer("modality_bias", torch.zeros(count, config.input_dim))
            self.register_buffer("modality_last_nonzero", torch.zeros(count, config.hidden_dim, dtype=torch.long))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.encoder:
            init.kaiming_uniform_(module.weight, a=5**0.5)
        elif module is getattr(self, "decoder", None):
            # A branch of its own, not part of `self`: a tied checkpoint loaded as untied lacks only this module.
            init.copy_(module.weight, self.encoder.weight.t())
        elif module is self:
            init.zeros_(self.pre_bias)
            init.zeros_(self.latent_bias)
            init.zeros_(self.stats_last_nonzero)
            if self.config.modalities:
                init.zeros_(self.modality_bias)
                init.zeros_(self.modality_last_nonzero)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> CSRModel:
        """Load a head from safetensors, and check it; otherwise as `PreTrainedModel.from_pretrained`.

        A `SparseAutoEncoder` of sentence-transformers is loaded too, given its folder or its `subfolder`.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            *args: as for `PreTrainedModel.from_pretrained`.
            **kwargs: as for `PreTrainedModel.from_pretrained`; fields of `CSRConfig` replace the saved ones.

        Raises:
            ValueError: if the file is damaged, its tensors and the sizes in the config disagree (both checked before
                memory is allocated), a weight is NaN or infinite, or the head is to be quantized.
            OSError: if there is no such repository or file, or no permission to read it.
        """
        refuse_unsupported(kwargs)
        source: str | os.PathLike | None = pretrained_model_name_or_path
        path = None
        if source is not None:
            hub = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
            access = {name: hub[name] for name in ("token", "local_files_only", "cache_dir") if name in hub}
            # Resolved once, so that config and weights are read at the same commit.
            hub["revision"] = resolve_revision(source, hub.get("revision"), **access)
            config = kwargs.pop("config", None)
            if not isinstance(config, PretrainedConfig):
                options = {**hub, **kwargs}
                config, kwargs = CSRConfig.from_pretrained(config or source, return_unused_kwargs=True, **options)
            path = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False, **hub)
            kwargs |= {**hub, "config": config}
            if path is not None and check_file(path, config):
                # Renamed here, not by `key_mapping`, which transformers would undo on saving.
                kwargs["state_dict"] = read_file(path)
                source = None
        kwargs["use_safetensors"] = True
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_values({**dict(model.named_parameters()), **dict(model.named_buffers())}, str(source or path))
        if path is not None:
            model.inherit_fingerprint(read_file(path))
        return loaded

    @property
    def dictionary(self) -> torch.Tensor:
        """The decoder's atoms, one for each latent, shape (hidden_dim, input_dim)."""
        return self.encoder.weight if self.config.tied_decoder else self.decoder.weight.t()

    def subtract_modality_mean(self, embeddings: Any, modality: str | None = None) -> Any:
        """Subtract the mean of a modality from its embeddings; all other methods expect embeddings without it.

        Contrastive backbones put images and texts into two narrow cones (arXiv 2203.02053). A dictionary trained on
        both spends latents on telling them apart; without the means, both use the same latents.

        Args:
            embeddings: as the backbone gives them, shape (..., input_dim).
            modality: one of the config's. A head of one modality ignores it and returns the embeddings unchanged.

        Raises:
            ValueError: if the head has several modalities and `modality` is none of them, or as `encode` does.
        """
        rows = self._take(embeddings)
        if not self.config.modalities:
            return embeddings
        if modality not in self.config.modalities:
            known = ", ".join(self.config.modalities)
            raise ValueError(
                f"`modality` ({modality!r}) is not one of this head's: {known}. Name the one that was embedded."
            )
        return _give(embeddings, rows - self.modality_bias[self.config.modalities.index(modality)])

    def pre_activations(self, embeddings: Any) -> Any:
        """Compute W (x - pre_bias) + latent_bias, shape (..., hidden_dim); arguments and errors as for `encode`."""
        rows = self._take(embeddings).to(self.encoder.weight.dtype)
        return _give(embeddings, F.linear(rows - self.pre_bias, self.encoder.weight, self.latent_bias))

    def encode(
        self, embeddings: Any, k: int | None = None, *, refine: bool | Literal["pursuit"] = False
    ) -> tuple[Any, Any]:
        """Encode dense embeddings into sparse codes.

        Args:
            embeddings: a tensor on the head's device, or a numpy array, of any float type, without the mean of their
                modality, shape (..., input_dim).
            k: active latents, at most hidden_dim; default the config's. It need not be the k of the training.
            refine: compute codes that decode closer to the embedding at the same k, for documents; at least in
                float32, also under autocast, and without gradients. True keeps the latents that the encoder chose and
                fits their values by non-negative least squares. "pursuit" also chooses the latents, by matching
                pursuit: closest to the embedding, so best where search decodes the codes; slightly worse where sparse
                queries are compared with sparse documents, since the encoder chooses a query's latents.

        Returns:
            values (..., k), descending, non-negative, and indices (..., k), int64. Latents below zero have the value
            0. Values have the head's type, or that of autocast. Arrays give arrays, float32 for a bfloat16 head.

        Raises:
            ValueError: if `k` is not between 1 and hidden_dim, `refine` is unknown, or the embeddings are no floats,
                have another width or are on another device.
        """
        if refine not in (False, True, "pursuit"):
            raise ValueError(f"`refine` ({refine!r}) is unknown. Choose False, True or 'pursuit'.")
        k = self.config.k if k is None else k
        is_integer = isinstance(k, int) or hasattr(k, "__index__")
        if isinstance(k, bool) or not is_integer or not 1 <= k <= self.config.hidden_dim:
            raise ValueError(
                f"`k` ({k}) must be between 1 and `hidden_dim` ({self.config.hidden_dim}). "
                "Lower k, or train a head with a larger hidden_dim."
            )
        rows = self._take(embeddings)
        if refine:
            values, indices = self._refine(rows, int(k), refine == "pursuit")
        else:
            values, indices = torch.topk(self.pre_activations(rows), k, dim=-1)
            values = torch.relu(values)
        return _give(embeddings, values), _give(embeddings, indices)

    def decode(self, values: Any, indices: Any) -> Any:
        """Decode sparse codes into dense embeddings: sum_j z_j * dictionary[j] + pre_bias.

        Args:
            values: tensor or numpy array of any float type, shape (..., k).
            indices: the same of any integer type.

        Returns:
            Embeddings, shape (..., input_dim).

        Raises:
            ValueError: if the shapes or kinds differ, `values` are no floats, or `indices` no numbers of latents.
        """
        like = self.encoder.weight
        numbers = _to_tensor("indices", indices, like.device, is_float=False).long()
        weights = _to_tensor("values", values, like.device).to(like.dtype)
        if weights.shape != numbers.shape or weights.ndim == 0:
            raise ValueError(
                f"`values` {tuple(weights.shape)} and `indices` {tuple(numbers.shape)} must both have the shape "
                "(..., k). Give what `encode` returned."
            )
        if not torch.compiler.is_compiling() and numbers.numel():
            low, high = (int(bound) for bound in torch.aminmax(numbers))
            if low < 0 or high >= self.config.hidden_dim:
                raise ValueError(
                    f"`indices` must lie in [0, {self.config.hidden_dim}); found {low} to {high}. "
                    "Decode codes with the head that made them."
                )
        return _give(values, self._decode(weights, numbers))

    def project(self, embeddings: Any) -> tuple[Any, Any]:
        """Compute the inner products of embeddings with every atom and with pre_bias.

        They give <x, decode(z)> = sum_j latents[j] * z_j + offset: reranking scores a sparse document against a dense
        query without decoding the document.

        Args:
            embeddings: as for `encode`, shape (..., input_dim).

        Returns:
            latents (..., hidden_dim), the products with the atoms, and offset (...), those with pre_bias.
        """
        rows = self._take(embeddings).to(self.encoder.weight.dtype)
        return _give(embeddings, rows @ self.dictionary.t()), _give(embeddings, rows @ self.pre_bias)

    def forward(
        self,
        embeddings: torch.Tensor,
        k: int | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
    ) -> CSROutput | tuple:
        """Encode and decode embeddings, and compute the reconstruction error at k.

        The loss needs no labels: `transformers.Trainer` trains and evaluates a head as it is, on a data set with the
        column `embeddings`. It is that of the reconstruction alone; `CSRTrainer` adds the other terms of the method.

        Args:
            embeddings: as for `encode`, shape (..., input_dim).
            k: active latents; default the config's.
            return_loss: whether to compute the loss.
            return_dict: True gives a `CSROutput`, False a tuple in its order without None; default the config's.
        """
        rows = self._take(embeddings).to(self.encoder.weight.dtype)
        values, indices = self.encode(rows, k)
        reconstruction = self._decode(values, indices)
        loss = (reconstruction - rows).pow(2).sum(-1).mean() if return_loss else None
        output = CSROutput(loss=loss, code_values=values, code_indices=indices, reconstruction=reconstruction)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _decode(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        latents = values.new_zeros((*values.shape[:-1], self.config.hidden_dim))
        return latents.scatter_add(-1, indices, values) @ self.dictionary + self.pre_bias

    @torch.no_grad()
    def _refine(self, embeddings: torch.Tensor, k: int, pursuit: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with values fitted by least squares, some rows at a time."""
        weight, parts = self.encoder.weight, []
        wide = torch.promote_types(weight.dtype, torch.float32)
        size = max(1, _WORK_FLOATS // (k * max(k, self.config.input_dim)))
        with torch.autocast(weight.device.type, enabled=False):
            atoms = self.dictionary.to(wide)
            for rows in embeddings.reshape(-1, self.config.input_dim).to(weight.dtype).split(size):
                correlations = (rows.to(wide) - self.pre_bias.to(wide)) @ atoms.t()
                if pursuit:
                    parts.append(pursue(atoms, correlations, k))
                else:
                    values, indices = torch.topk(self.pre_activations(rows), k, dim=-1)
                    parts.append(fit(atoms, correlations, indices, values > 0))
        values, indices = (torch.cat(part).reshape(*embeddings.shape[:-1], k) for part in zip(*parts, strict=True))
        return values.to(weight.dtype), indices

    def _take(self, embeddings: Any) -> torch.Tensor:
        """Return embeddings as a tensor of their own float type on the head's device, checked."""
        rows = _to_tensor("embeddings", embeddings, self.encoder.weight.device)
        width = rows.shape[-1] if rows.ndim else 0
        if width != self.config.input_dim:
            raise ValueError(
                f"embeddings are {width} wide, this head takes `input_dim` {self.config.input_dim}. "
                "Use the backbone the head was trained on, or train a head for this one."
            )
        return rows


def _to_tensor(name: str, given: Any, device: torch.device, *, is_float: bool = True) -> torch.Tensor:
    """Return a tensor as it is, an array as a tensor on `device`; refuse what holds no floats, or no integers."""
    kind = "floats" if is_float else "integers"
    if isinstance(given, torch.Tensor):
        is_integer = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        if not (given.is_floating_point() if is_float else is_integer):
            raise ValueError(f"`{name}` ({given.dtype}) must be {kind}. Convert them first.")
        if given.device != device:
            raise ValueError(f"`{name}` are on {given.device}, the head on {device}. Move one to the other.")
        return given
    if not hasattr(given, "__array__"):
        raise ValueError(f"`{name}` ({type(given).__name__}) must be a tensor or a numpy array. Convert them first.")
    array = given.__array__()
    if array.dtype.kind not in ("f" if is_float else "iu") and not (is_float and array.dtype.name == "bfloat16"):
        raise ValueError(f"`{name}` ({array.dtype}) must be {kind}. Convert them first.")
    wide = ("float64" if array.dtype.itemsize > 4 else "float32") if is_float else "int64"
    # A copy in this order is writable and native whatever the array was.
    return torch.from_numpy(array.astype(wide, order="C")).to(device)


def _give(given: Any, result: torch.Tensor) -> Any:
    """Return a result as what was given: a tensor, or an array where an array was given."""
    if isinstance(given, torch.Tensor):
        return result
    return (result.float() if result.dtype == torch.bfloat16 else result).numpy(force=True)
