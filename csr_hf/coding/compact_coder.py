"""Store embeddings as compact codes of a head: the closest in given bytes, which are decoded to be compared."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from csr_hf.code_files import read_format
from csr_hf.codes import head_fingerprint
from csr_hf.coding.bit_rows import sort_levels, step_sizes
from csr_hf.coding.coder import Coder
from csr_hf.coding.compact import CompactCodes
from csr_hf.coding.head_coder import HeadCoder, digest_arrays
from csr_hf.coding.prior import LatentPrior, PriorArrays
from csr_hf.coding.pursuit import Chosen
from csr_hf.coding.transform import TransformQuantizer
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel

_OF_RESIDUAL = ("axes", "mean", "spreads")


class CompactCoder(HeadCoder[CompactCodes]):
    """Turns embeddings into compact codes and back: what is more probable takes fewer bits, so that more latents fit.

    `csr_hf.fit_coder` makes one for a budget of bytes.

    Args:
        head: the CSR head, of at most 8,192 latents. Codes are computed on the CPU in float32 wherever it is.
        row_bytes: of a code; it gets as many latents as fit.
        prior: how probable codes are.
        residual: keeps what the codes leave of the embeddings; None leaves it out.

    Raises:
        ValueError: if `row_bytes` is less than 3, or the prior is for another number of latents.
    """

    format: ClassVar[str] = "csr_hf.compact_coder"

    def __init__(
        self, head: CSRModel, *, row_bytes: int, prior: LatentPrior, residual: TransformQuantizer | None = None
    ) -> None:
        if prior.dim != head.config.hidden_dim:
            raise ValueError(f"`prior` is for {prior.dim} latents, the head has {head.config.hidden_dim}.")
        super().__init__(head, row_bytes, min(prior.most, prior.dim), residual)
        self.prior = prior
        self._steps = step_sizes(prior.base)

    def _write(self, chosen: Chosen) -> CompactCodes:
        rows = self.prior.write(self.pursuit, chosen, self.row_bytes)
        return CompactCodes(rows, self.fingerprint, head_fingerprint(self.head))

    def unpack(self, codes: CompactCodes) -> SparseCodes:
        """Read the latents of codes; residuals are left out.

        Raises:
            ValueError: if another coder made them.
        """
        if codes.coder != self.fingerprint:
            raise ValueError(f"`codes` were made by another coder ({codes.coder!r}) than this ({self.fingerprint!r}).")
        found = self.prior.read(codes.rows)
        indices, levels = sort_levels(found.indices, found.levels)
        values = levels * self._steps[found.scales, None]
        return SparseCodes(indices, values, self.prior.dim, codes.head_fingerprint, check=False)

    def _put_residual(self, codes: CompactCodes, residual: np.ndarray) -> CompactCodes:
        return CompactCodes(codes.rows, codes.coder, codes.head_fingerprint, residual)

    @cached_property
    def fingerprint(self) -> str:
        """Which stands in its codes: of the prior and of the head."""
        return digest_arrays(f"{head_fingerprint(self.head)}, {self.row_bytes} bytes", self.prior.arrays._asdict())

    @property
    def usual_k(self) -> int:
        """Latents that most codes have."""
        return int(self.prior.arrays.counts.argmax())

    @property
    def _own_settings(self) -> dict[str, Any]:
        return {"bits": self.prior.bits, "prior": self.fingerprint}

    @property
    def _own_metadata(self) -> dict[str, str]:
        return {}

    @property
    def _own_arrays(self) -> dict[str, np.ndarray]:
        return self.prior.arrays._asdict()

    @classmethod
    def _from_file(cls, head: CSRModel, metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> Self:
        row_bytes, size = int(metadata["row_bytes"]), int(metadata["residual_bytes"])
        prior = LatentPrior(PriorArrays(**{name: arrays[name] for name in PriorArrays._fields}))
        rest = {name: array for name, array in arrays.items() if name not in PriorArrays._fields}
        if set(rest) not in (set(), set(_OF_RESIDUAL)):
            raise ValueError(f"it holds {sorted(rest)}")
        residual = TransformQuantizer(**rest, size=size) if rest else None
        return cls(head, row_bytes=row_bytes, prior=prior, residual=residual)


def load_coder(path: str | Path, head: CSRModel) -> Coder | CompactCoder:
    """Read a coder of either kind that was saved.

    Args:
        path: the file.
        head: the one that it was made for.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or holds something else, or was made for another head.
    """
    return (CompactCoder if read_format(path) == CompactCoder.format else Coder).load(path, head)
