"""Why a query and a document match: the latents that carry their score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from csr_hf.codes import encode_embeddings, head_fingerprint, read_atoms
from csr_hf.coding.packing import PackedCodes
from csr_hf.plumbing.float_rows import as_float_rows
from csr_hf.plumbing.foreign import one_line
from csr_hf.search_inputs import embed
from csr_hf.sparse_codes import SparseCodes

if TYPE_CHECKING:
    from csr_hf.coding.coder import Coder
    from csr_hf.explain.latents import Latents
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.search_inputs import Encoder

COMMON, REST = "what all texts share", "what the residual adds"
"""Names of the shares of no latent."""
_SIMILARITIES = ("cosine", "dot")
_SHOWN = 8


class Share(NamedTuple):
    """What one latent, or another part of a document's code, adds to the score."""

    name: str
    score: float
    latent: int | None = None
    """None for the part that is the same for all documents (`pre_bias`), and for the residual."""


@dataclass(frozen=True, repr=False)
class Match:
    """Why a query and a document match."""

    score: float
    """Cosine of the query and the decoded document, or their dot product if the backbone compares by that."""
    shares: tuple[Share, ...]
    """Latents of the document, the largest shares first, then what all texts share and what the residual adds; their
    sum is the score."""

    def largest(self, count: int = 5) -> list[Share]:
        """Return the latents that add most, at most `count`, and only such as add anything."""
        return [share for share in self.shares if share.latent is not None and share.score > 0][:count]

    def summarize(self, count: int = _SHOWN) -> list[Share]:
        """Return few shares that sum to the score: the latents that add most, all others as one, and the rest.

        Args:
            count: latents, at most.
        """
        shown = self.largest(count)
        known = {share.latent for share in shown}
        others = [share for share in self.shares if share.latent is not None and share.latent not in known]
        if others:
            shown.append(Share(f"{len(others)} more latents", sum(share.score for share in others)))
        return shown + [share for share in self.shares if share.latent is None]

    def __repr__(self) -> str:
        lines = [f"Match(score={self.score:.4f})"]
        for share in self.summarize():
            part = f"{share.score / self.score:6.1%}" if self.score else " " * 6
            number = "" if share.latent is None or share.name == f"latent {share.latent}" else f" ({share.latent})"
            lines.append(f"  {share.score:+.4f}  {part}  {one_line(share.name)}{number}")
        return "\n".join(lines)


def explain_match(
    encoder: Encoder,
    query: Any,
    document: Any,
    *,
    coder: Coder | None = None,
    latents: Latents | None = None,
) -> Match:
    """Split the score of a query and a document into what each latent of the document adds.

    Args:
        encoder: backbone and head.
        query: a text, an image, or an embedding of shape (input_dim,), less the mean of its modality.
        document: the same, or a code, as `SparseCodes` or `PackedCodes` of one row.
        coder: encodes the document, and decodes packed codes with a residual; default: the head, with values fitted.
        latents: names, of `describe_latents` or `Latents.load`; latents are numbered without.

    Raises:
        ValueError: if the codes are of another head or hold more than one row, packed codes have a residual and there
            is no `coder`, the coder or the names are of another head, or the backbone compares neither by cosine nor
            by dot product.
    """
    if encoder.backbone is None:
        raise ValueError("`encoder` has no backbone to embed with. Split the score of embeddings with `split_score`.")
    head, similarity = encoder.head, encoder.backbone.similarity_fn_name
    if similarity not in _SIMILARITIES:
        raise ValueError(f"`encoder` compares by {similarity}, which is no sum over latents. Use cosine or dot.")
    for name, given in (("coder", coder and coder.head), ("latents", latents)):
        if given is not None and _fingerprint_of(given) != head_fingerprint(head):
            raise ValueError(f"`{name}` is of another head ({_fingerprint_of(given)}) than `encoder`.")
    asked = _embed_one(encoder, query, "query")
    codes, decoded = _decode(encoder, document, coder)
    return split_score(head, asked, codes, decoded, by_dot=similarity == "dot", latents=latents)


def split_score(
    head: CSRModel,
    query: np.ndarray,
    codes: SparseCodes,
    decoded: np.ndarray | None = None,
    *,
    by_dot: bool = False,
    latents: Latents | None = None,
) -> Match:
    """Split the score of an embedding and a code into shares, see `explain_match`.

    Args:
        head: of the code.
        query: embedding of the query, less the mean of its modality, shape (input_dim,).
        codes: of one document.
        decoded: the document as its code and its residual give it, shape (input_dim,); None without a residual.
        by_dot: the score is a dot product, no cosine.
        latents: names.
    """
    asked = np.asarray(query, np.float64)
    active = codes.values[0] > 0
    numbers, values = codes.indices[0][active].astype(np.int64), codes.values[0][active].astype(np.float64)
    atoms = read_atoms(head)[numbers].astype(np.float64)
    common = head.pre_bias.detach().float().cpu().numpy().astype(np.float64)
    alone = values @ atoms + common
    whole = alone if decoded is None else np.asarray(decoded, np.float64)
    scale = 1.0 if by_dot else float(np.linalg.norm(asked) * np.linalg.norm(whole))
    scale = 1 / scale if scale > 0 else 0.0
    parts = values * (atoms @ asked) * scale
    named = [f"latent {number}" if latents is None else latents.name(int(number)) for number in numbers]
    order = np.argsort(-parts, kind="stable")
    shares = [Share(named[place], float(parts[place]), int(numbers[place])) for place in order]
    shares.append(Share(COMMON, float(common @ asked) * scale))
    if decoded is not None:
        shares.append(Share(REST, float((whole - alone) @ asked) * scale))
    return Match(float(whole @ asked) * scale, tuple(shares))


def _embed_one(encoder: Encoder, given: Any, task: Literal["query", "document"]) -> np.ndarray:
    """Return the embedding of one input, float32, shape (input_dim,); one that is given is taken as it is."""
    if not isinstance(given, str) and getattr(given, "ndim", None) == 1:
        row = np.asarray(as_float_rows(given[None], f"`{task}`"), np.float32)[0]
        if row.shape != (encoder.head.config.input_dim,):
            raise ValueError(f"`{task}` has {len(row)} dimensions. The head takes {encoder.head.config.input_dim}.")
        return row
    return embed(encoder, [given], task)[0]


def _fingerprint_of(given: Any) -> str:
    """Return the fingerprint of the head that names are of, or of a head."""
    return given.head if isinstance(getattr(given, "head", None), str) else head_fingerprint(given)


def _decode(encoder: Encoder, document: Any, coder: Coder | None) -> tuple[SparseCodes, np.ndarray | None]:
    """Return the code of a document, and what code and residual decode to where there is a residual."""
    if isinstance(document, SparseCodes | PackedCodes):
        _check_code(encoder.head, document, coder)
        if isinstance(document, SparseCodes):
            return document, None
        packed = document
    else:
        rows = _embed_one(encoder, document, "document")[None]
        if coder is None:
            return encode_embeddings(encoder.head, rows, refine=True), None
        packed = coder.encode(rows)
    has_residual = coder is not None and coder.residual is not None and packed.residual is not None
    return packed.unpack(), coder.decode(packed)[0] if coder is not None and has_residual else None


def _check_code(head: CSRModel, code: SparseCodes | PackedCodes, coder: Coder | None) -> None:
    if len(code) != 1:
        raise ValueError(f"`document` holds the codes of {len(code)} documents. Give one: codes[i : i + 1].")
    if code.head_fingerprint not in (None, head_fingerprint(head)):
        raise ValueError(f"`document` is a code of another head ({code.head_fingerprint}) than `encoder`.")
    if isinstance(code, PackedCodes) and code.residual is not None and (coder is None or coder.residual is None):
        raise ValueError("`document` has a residual. Give the `coder` that it was encoded with.")
