"""Check, compare and hash the weights of a head. A copy of this file is saved in each model repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from .configuration_csr import CSRConfig

# The tied weight has two names in sentence-transformers, which saves it under this one.
TIED_WEIGHT = "decoder.linear.weight"
_CACHED_BYTES = 1 << 20
_FLOATS = {"F16", "BF16", "F32", "F64"}
_INTEGERS = {"I64", "I32"}
LARGEST_WEIGHT = 1e12
"""Absolute value of a weight that training never comes near, and whose products float32 still holds."""


class FingerprintedModel(PreTrainedModel):
    """A model whose weights have a fingerprint that conversions to other float types keep.

    The config's `fingerprints` say what the weights were converted from. An entry counts for the weights whose hash it
    names, so it tells nothing of weights that were changed since, or that came with a config of others.
    """

    config: CSRConfig
    modality_bias: torch.Tensor
    _hashed: tuple[list[tuple[torch.dtype, bytes]], str] | None = None

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Save weights, config and code, as `PreTrainedModel.save_pretrained`; keywords as there."""
        known = self.config.fingerprints
        if known:
            hashed = hash_weights(self._weights())
            self.config.fingerprints = {hashed: known[hashed]} if hashed in known else {}
        super().save_pretrained(save_directory, **kwargs)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, 16 hexadecimal digits; codes are comparable if it is equal.

        It stays the same when the head moves to another device or float type, also by saving and loading, and changes
        with any other change of a weight.
        """
        weights = self._weights()
        sums = sum_bits(weights)
        if self._hashed is None or self._hashed[0] != sums:
            self._hashed = (sums, hash_weights(weights))
        return self.config.fingerprints.get(self._hashed[1], self._hashed[1])

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return what codes depend on, by name."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return {**weights, "modality_bias": self.modality_bias.detach()} if self.config.modalities else weights

    def _apply(self, fn: Callable, recurse: bool = True) -> FingerprintedModel:
        """Convert all tensors, as `to`, `half` and their like do, and keep the fingerprint."""
        before = self._weights()
        super()._apply(fn, recurse)
        self.inherit_fingerprint(before)
        return self

    def inherit_fingerprint(self, before: dict[str, torch.Tensor]) -> None:
        """Keep the fingerprint of `before` if the weights are those in another float type, and nothing else.

        Args:
            before: weights by name; what is no weight of this head is ignored.
        """
        after = self._weights()
        before = {name: tensor for name, tensor in before.items() if name in after}
        if any(after[name].dtype != tensor.dtype for name, tensor in before.items()) and is_conversion(before, after):
            old, new = hash_weights(before), hash_weights(after)
            origin = self.config.fingerprints.get(old, old)
            if origin != new:
                self.config.fingerprints[new] = origin


def check_file(path: str, config: CSRConfig) -> bool:
    """Compare the shapes in a safetensors file with the config; return whether the encoder has its tied name.

    Raises:
        ValueError: if the file is damaged, or a tensor is missing, has another shape, or is of another type: weights
            are floats of 16 to 64 bits, counts integers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: tuple(each.get_shape()) for name, each in slices.items()}
            kinds = {name: each.get_dtype() for name, each in slices.items()}
    # A header may also name types and sizes that no library has.
    except (SafetensorError, OverflowError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or incomplete ({reason}). Download or save it again.") from error
    is_tied_name = "encoder.weight" not in found and TIED_WEIGHT in found
    if is_tied_name:
        found["encoder.weight"], kinds["encoder.weight"] = found[TIED_WEIGHT], kinds[TIED_WEIGHT]
    sizes, width = config.hidden_dim, config.input_dim
    wanted = {"encoder.weight": (sizes, width), "pre_bias": (width,), "latent_bias": (sizes,)}
    # These two may be missing: the count then starts at 0, and an untied decoder at the transposed encoder.
    optional = {"stats_last_nonzero": (sizes,), "decoder.weight": (width, sizes)}
    if config.modalities:
        wanted["modality_bias"] = (len(config.modalities), width)
        optional["modality_last_nonzero"] = (len(config.modalities), sizes)
    for name, shape in (wanted | {name: optional[name] for name in optional.keys() & found.keys()}).items():
        if found.get(name) != shape:
            raise ValueError(
                f"`{name}` is {found.get(name, 'missing')} in {path}, but config.json says {shape} "
                f"(`hidden_dim` {sizes}, `input_dim` {width}). These files do not belong together."
            )
        known = _INTEGERS if name.endswith("last_nonzero") else _FLOATS
        if kinds[name] not in known:
            raise ValueError(
                f"`{name}` in {path} is of type {kinds[name]}; a head has {' or '.join(sorted(known))} there. "
                "Save it as one of these."
            )
    return is_tied_name


def read_file(path: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file of a head; the tied weight is called `encoder.weight`."""
    weights = load_file(path)
    if "encoder.weight" not in weights:
        weights["encoder.weight"] = weights.pop(TIED_WEIGHT)
    return weights


@torch.inference_mode()
def check_values(weights: dict[str, torch.Tensor], source: str) -> None:
    """Check that floats are finite and of a size that products of them stay so.

    Args:
        weights: by name, of any type.
        source: where they came from, for the message.

    Raises:
        ValueError: naming the tensor.
    """
    for name, tensor in weights.items():
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = (float(bound) for bound in torch.aminmax(tensor))
        # A comparison with NaN is False.
        if not (low > -torch.inf and high < torch.inf):
            raise ValueError(f"`{name}` of {source} holds NaN or infinity. Train or download it again.")
        if max(-low, high) > LARGEST_WEIGHT:
            raise ValueError(
                f"`{name}` of {source} holds {max(-low, high):.3g}, beyond {LARGEST_WEIGHT:g}: its codes would "
                "overflow. Train or download it again."
            )


@torch.inference_mode()
def is_conversion(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Tell whether weights are others in another float type or on another device, and nothing else.

    Args:
        before: weights by name.
        after: what became of them. Weights on the meta device are no conversion.
    """
    if before.keys() != after.keys() or any(tensor.is_meta for tensor in (*before.values(), *after.values())):
        return False
    return all(torch.equal(before[name].to(tensor), tensor) for name, tensor in after.items())


@torch.inference_mode()
def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """Hash the names, shapes and values of weights, 16 hexadecimal digits; the same in every type that holds them."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu()
        narrow = values.float()
        is_exact = values.dtype != torch.float64 or torch.equal(narrow.double(), values)
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update((narrow if is_exact else values).contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def sum_bits(weights: dict[str, torch.Tensor]) -> list[tuple[torch.dtype, bytes]]:
    """Add up the bits of each tensor along rows and columns, which is much quicker than a hash.

    Version counters of PyTorch would be quicker still, but do not count changes of `tensor.data`, and tensors of the
    inference mode have none.
    """
    sums = []
    for _, tensor in sorted(weights.items()):
        bits = tensor.detach().contiguous()
        for wide in (torch.int64, torch.int32, torch.int16):
            if bits.shape[-1] * bits.element_size() % wide.itemsize == 0:
                bits = bits.view(wide)
                break
        # So many rows that they are still in the processor's cache when their columns are added up.
        blocks = bits.split(max(1, _CACHED_BYTES // (bits[0].nbytes or 1))) if bits.ndim == 2 else ()
        parts = [block.sum(axis, dtype=torch.int64) for block in blocks for axis in (0, 1)] or [bits]
        sums.append((tensor.dtype, b"".join(part.cpu().numpy().tobytes() for part in parts)))
    return sums
