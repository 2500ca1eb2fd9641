"""Encode dense embeddings into sparse codes and decode them. A copy of this file is saved in each model repository."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file, resolve_revision

from .configuration_csr import CSRConfig
from .least_squares import gram_of_supports, restrict, solve, solve_non_negative

_PURSUIT_ROUNDS = 8
_RIDGE = 1e-5
# Floats in one work array (128 MB): more rows are refined in several parts.
_WORK_FLOATS = 1 << 25
# The tied weight has two names in sentence-transformers, which saves it under this one.
_TIED_WEIGHT = "decoder.linear.weight"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass
class CSROutput(ModelOutput):
    """Output of `CSRModel.forward`.

    Attributes:
        loss: reconstruction error at k, squared, summed over dimensions, averaged over the batch; a scalar.
        values: values of the active latents, descending, shape (n, k).
        indices: numbers of the active latents, int64, shape (n, k).
        reconstruction: embeddings decoded from the codes, shape (n, input_dim).
    """

    loss: torch.Tensor | None = None
    values: torch.Tensor | None = None  # type: ignore[assignment]
    indices: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class CSRModel(PreTrainedModel):
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
                memory is allocated), or a weight is NaN or infinite.
            OSError: if there is no such repository or file, or no permission to read it.
        """
        source: str | os.PathLike | None = pretrained_model_name_or_path
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
            if path is not None and _check_tensors(path, config):
                # Renamed here, not by `key_mapping`, which transformers would undo on saving.
                weights = load_file(path)
                kwargs["state_dict"] = {**weights, "encoder.weight": weights.pop(_TIED_WEIGHT)}
                source = None
        kwargs["use_safetensors"] = True
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, parameter in model.named_parameters():
            if not parameter.is_meta and not parameter.isfinite().all():
                where = pretrained_model_name_or_path
                raise ValueError(f"`{name}` of {where} holds NaN or infinity. Train or download this head again.")
        return loaded

    @property
    def dictionary(self) -> torch.Tensor:
        """The decoder's atoms, one for each latent, shape (hidden_dim, input_dim)."""
        return self.encoder.weight if self.config.tied_decoder else self.decoder.weight.t()

    def subtract_modality_mean(self, embeddings: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        """Subtract the mean of a modality from its embeddings; all other methods expect embeddings without it.

        Contrastive backbones put images and texts into two narrow cones (arXiv 2203.02053). A dictionary trained on
        both spends latents on telling them apart; without the means, both use the same latents.

        Args:
            embeddings: as the backbone gives them, shape (n, input_dim).
            modality: one of the config's. A head of one modality ignores it and returns the embeddings unchanged.

        Returns:
            Embeddings, shape (n, input_dim).

        Raises:
            ValueError: if the head has several modalities and `modality` is none of them, or the width differs.
        """
        self._check_width(embeddings)
        if not self.config.modalities:
            return embeddings
        if modality not in self.config.modalities:
            known = ", ".join(self.config.modalities)
            raise ValueError(
                f"`modality` ({modality!r}) is not one of this head's: {known}. Name the one that was embedded."
            )
        return embeddings - self.modality_bias[self.config.modalities.index(modality)]

    def pre_activations(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Compute W (x - pre_bias) + latent_bias, shape (n, hidden_dim).

        Raises:
            ValueError: if the last axis of `embeddings` is not `input_dim`.
        """
        self._check_width(embeddings)
        return F.linear(embeddings - self.pre_bias, self.encoder.weight, self.latent_bias)

    def encode(
        self, embeddings: torch.Tensor, k: int | None = None, *, refine: bool | Literal["pursuit"] = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode dense embeddings into sparse codes.

        Args:
            embeddings: shape (n, input_dim), without the mean of their modality.
            k: active latents, at most hidden_dim; default the config's. It need not be the k of the training.
            refine: compute codes that decode closer to the embedding at the same k, for documents; in float32 and
                without gradients. True keeps the latents that the encoder chose and fits their values by non-negative
                least squares. "pursuit" also chooses the latents, by generalized orthogonal matching pursuit
                (arXiv 1111.6664): closest to the embedding, so best where search decodes the codes; slightly worse
                where sparse queries are compared with sparse documents, since the encoder chooses a query's latents.

        Returns:
            values (n, k), descending, non-negative, and indices (n, k), int64. Latents below zero have the value 0.

        Raises:
            ValueError: if `k` is not between 1 and hidden_dim, `refine` is unknown, or the embeddings have another
                width.
        """
        if refine not in (False, True, "pursuit"):
            raise ValueError(f"`refine` ({refine!r}) is unknown. Choose False, True or 'pursuit'.")
        k = self.config.k if k is None else k
        if not 1 <= k <= self.config.hidden_dim:
            raise ValueError(
                f"`k` ({k}) must be between 1 and `hidden_dim` ({self.config.hidden_dim}). "
                "Lower k, or train a head with a larger hidden_dim."
            )
        if refine:
            rows = max(1, _WORK_FLOATS // (k * max(k, self.config.input_dim)))
            better = self._pursue if refine == "pursuit" else self._refine
            parts = [better(part, k) for part in embeddings.split(rows)]
            return torch.cat([values for values, _ in parts]), torch.cat([indices for _, indices in parts])
        values, indices = torch.topk(self.pre_activations(embeddings), k, dim=-1)
        return torch.relu(values), indices

    def decode(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Decode sparse codes into dense embeddings: sum_j z_j * dictionary[j] + pre_bias.

        Args:
            values: shape (n, k).
            indices: integers, shape (n, k).

        Returns:
            Embeddings, shape (n, input_dim).
        """
        latents = values.new_zeros((*values.shape[:-1], self.config.hidden_dim))
        return latents.scatter_add(-1, indices.long(), values) @ self.dictionary + self.pre_bias

    def project(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the inner products of embeddings with every atom and with pre_bias.

        They give <x, decode(z)> = sum_j latents[j] * z_j + offset: reranking scores a sparse document against a dense
        query without decoding the document.

        Args:
            embeddings: shape (n, input_dim).

        Returns:
            latents (n, hidden_dim), the products with the atoms, and offset (n,), those with pre_bias.
        """
        self._check_width(embeddings)
        return embeddings @ self.dictionary.t(), embeddings @ self.pre_bias

    def forward(self, embeddings: torch.Tensor, k: int | None = None, return_dict: bool = True) -> CSROutput | tuple:
        """Encode and decode embeddings, and compute the reconstruction error at k.

        Args:
            embeddings: shape (n, input_dim).
            k: active latents; default the config's.
            return_dict: True returns a `CSROutput`, False a plain tuple in the same order.
        """
        values, indices = self.encode(embeddings, k)
        reconstruction = self.decode(values, indices)
        loss = (reconstruction - embeddings).pow(2).sum(-1).mean()
        output = CSROutput(loss=loss, values=values, indices=indices, reconstruction=reconstruction)
        return output if return_dict else output.to_tuple()

    def _check_width(self, embeddings: torch.Tensor) -> None:
        if embeddings.shape[-1] != self.config.input_dim:
            raise ValueError(
                f"embeddings are {embeddings.shape[-1]} wide, this head takes `input_dim` {self.config.input_dim}. "
                "Use the backbone the head was trained on, or train a head for this one."
            )

    @torch.no_grad()
    def _correlations(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Compute the inner products of x - pre_bias with every atom, float32, shape (n, hidden_dim)."""
        return (embeddings.float() - self.pre_bias.float()) @ self.dictionary.float().t()

    @torch.no_grad()
    def _refine(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit the values of the latents that the encoder chooses."""
        values, indices = torch.topk(self.pre_activations(embeddings), k, dim=-1)
        fitted, indices = self._fit(self._correlations(embeddings), indices, values > 0)
        return fitted.to(values.dtype), indices

    @torch.no_grad()
    def _pursue(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose latents in rounds: add those whose atoms explain most of the residual, then fit all values again."""
        self._check_width(embeddings)
        atoms = self.dictionary.float()
        correlations, norms = self._correlations(embeddings), atoms.norm(dim=-1).clamp_min(1e-12)
        values = correlations.new_empty((len(embeddings), 0))
        indices = torch.empty_like(values, dtype=torch.long)
        step = -(-k // _PURSUIT_ROUNDS)
        while indices.shape[-1] < k:
            decoded = torch.zeros_like(correlations).scatter(-1, indices, values) @ atoms
            gain = ((correlations - decoded @ atoms.t()) / norms).scatter(-1, indices, -torch.inf)
            chosen = torch.topk(gain, min(step, k - indices.shape[-1]), dim=-1).indices
            indices = torch.cat([indices, chosen], dim=-1)
            values, indices = self._fit(correlations, indices, torch.ones_like(indices, dtype=torch.bool))
        return values.to(embeddings.dtype), indices

    @torch.no_grad()
    def _fit(
        self, correlations: torch.Tensor, indices: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit the values of latents (n, k) by non-negative least squares; 0 where not `active`. Sorts by value."""
        target = torch.gather(correlations, -1, indices)
        gram = gram_of_supports(self.dictionary.float(), indices)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        # The ridge is relative to each atom, so that the solution does not depend on the scale of atoms.
        diagonal += (_RIDGE * diagonal).clamp_min(1e-12)
        system, target = restrict(gram, target, active)
        solution = solve(system, target)
        constrained = (solution < 0).any(-1)
        if constrained.any():
            start = solution[constrained]
            solution[constrained] = solve_non_negative(system[constrained], target[constrained], start)
        fitted, order = torch.sort(solution, dim=-1, descending=True, stable=True)
        return fitted, torch.gather(indices, -1, order)


def _check_tensors(path: str, config: CSRConfig) -> bool:
    """Compare the shapes in a safetensors file with the config; return whether the encoder has its tied name."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}). Download or save it again.") from error
    is_tied_name = "encoder.weight" not in found and _TIED_WEIGHT in found
    if is_tied_name:
        found["encoder.weight"] = found[_TIED_WEIGHT]
    sizes, width = config.hidden_dim, config.input_dim
    wanted = {"encoder.weight": (sizes, width), "pre_bias": (width,), "latent_bias": (sizes,)}
    # These two may be missing: the count then starts at 0, and an untied decoder at the transposed encoder.
    optional = {"stats_last_nonzero": (sizes,), "decoder.weight": (width, sizes)}
    if config.modalities:
        wanted["modality_bias"] = (len(config.modalities), width)
    for name, shape in (wanted | {name: optional[name] for name in optional.keys() & found.keys()}).items():
        if found.get(name) != shape:
            raise ValueError(
                f"`{name}` is {found.get(name, 'missing')} in {path}, but config.json says {shape} "
                f"(`hidden_dim` {sizes}, `input_dim` {width}). These files do not belong together."
            )
    return is_tied_name
