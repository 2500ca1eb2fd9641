"""A head for embeddings divided by a power of two, and for embeddings as they are: the biases alone differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from csr_hf.modeling_csr import CSRModel


class ScaledHead:
    """Changes a head between both forms, in place; multiplying by a power of two is exact.

    Args:
        model: a head for embeddings as they are.
        scale: what embeddings are divided by in training.
    """

    def __init__(self, model: CSRModel, scale: float) -> None:
        self._model, self._scale, self._is_scaled = model, scale, False

    def scaled(self) -> AbstractContextManager[None]:
        """Make the head one for divided embeddings within the block, whatever it was before."""
        return self._changed(True)

    def original(self) -> AbstractContextManager[None]:
        """Make the head one for embeddings as they are within the block, whatever it was before."""
        return self._changed(False)

    @contextmanager
    def _changed(self, is_scaled: bool) -> Iterator[None]:
        before = self._is_scaled
        self._change(is_scaled)
        try:
            yield
        finally:
            self._change(before)

    @torch.no_grad()
    def _change(self, is_scaled: bool) -> None:
        if is_scaled == self._is_scaled:
            return
        factor = 1 / self._scale if is_scaled else self._scale
        self._model.pre_bias.mul_(factor)
        self._model.latent_bias.mul_(factor)
        self._is_scaled = is_scaled
