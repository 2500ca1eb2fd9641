"""Store embeddings as packed codes of a head: rows of equal size that a search reads in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from csr_hf.codes import head_fingerprint
from csr_hf.coding.bit_rows import check_bits
from csr_hf.coding.head_coder import LEAST_ROW, HeadCoder
from csr_hf.coding.packing import PackedCodes
from csr_hf.coding.pursuit import Chosen
from csr_hf.coding.rounding import largest_row_bytes, most_latents, round_chosen
from csr_hf.coding.scalar import ScalarQuantizer
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.modeling_csr import CSRModel


class Coder(HeadCoder[PackedCodes]):
    """Turns embeddings into packed codes and back; latents are chosen by pursuit, values rounded to repair each other.

    Args:
        head: the CSR head, of at most 8,192 latents. Codes are computed on the CPU in float32 wherever it is.
        row_bytes: of a code; it gets as many latents as fit. Default: what k latents need at most.
        k: latents of a code at most. Default: as many as fit.
        bits: of a value.
        residual: keeps what the codes leave of the embeddings; None leaves it out.

    Raises:
        ValueError: if both `row_bytes` and `k` are missing, one is out of range, or the head has too many latents.
    """

    format: ClassVar[str] = "csr_hf.coder"

    def __init__(
        self,
        head: CSRModel,
        *,
        row_bytes: int | None = None,
        k: int | None = None,
        bits: int = 4,
        residual: ScalarQuantizer | None = None,
    ) -> None:
        dim, self.bits = head.config.hidden_dim, check_bits(bits)
        if row_bytes is None:
            if k is None:
                raise ValueError("`row_bytes` and `k` are both missing. Give one of them.")
            row_bytes = max(largest_row_bytes(dim, min(max(k, 1), dim), bits), LEAST_ROW)
        if k is None:
            k = most_latents(dim, max(row_bytes, LEAST_ROW), bits)
        super().__init__(head, row_bytes, k, residual)

    def _write(self, chosen: Chosen) -> PackedCodes:
        levels, base = round_chosen(self.pursuit, chosen, self.bits, self.row_bytes)
        return PackedCodes.from_levels(
            *levels, self.head.config.hidden_dim, self.bits, base, head_fingerprint(self.head)
        )

    def unpack(self, codes: PackedCodes) -> SparseCodes:
        """Read the latents of codes; residuals are left out.

        Raises:
            ValueError: if they are codes of another head.
        """
        own = head_fingerprint(self.head)
        if codes.head_fingerprint not in (None, own):
            raise ValueError(f"`codes` are of another head ({codes.head_fingerprint}) than {own}. Decode with theirs.")
        return codes.unpack()

    def _put_residual(self, codes: PackedCodes, residual: np.ndarray) -> PackedCodes:
        return codes.with_residual(residual)

    @property
    def _own_settings(self) -> dict[str, Any]:
        return {"bits": self.bits}

    @property
    def _own_metadata(self) -> dict[str, str]:
        return {"k": str(self.k), "bits": str(self.bits)}

    @property
    def _own_arrays(self) -> dict[str, np.ndarray]:
        return {}

    @classmethod
    def _from_file(cls, head: CSRModel, metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> Self:
        k, row_bytes, bits, size = (int(metadata[name]) for name in ("k", "row_bytes", "bits", "residual_bytes"))
        if set(arrays) not in (set(), {"axes"}):
            raise ValueError(f"it holds {sorted(arrays)}")
        residual = ScalarQuantizer(arrays["axes"], size) if arrays else None
        return cls(head, k=k, row_bytes=row_bytes, bits=bits, residual=residual)
