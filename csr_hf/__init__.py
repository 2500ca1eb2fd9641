"""csr_hf: sparse, adaptive embeddings from any sentence-transformers model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from csr_hf import auto_classes

__version__ = "0.1.0"

# Public name -> module. Imported on first use, so that `import csr_hf` and `csr-hf --help` stay quick.
_PUBLIC = {
    "CSRConfig": "csr_hf.configuration_csr",
    "CSRModel": "csr_hf.modeling_csr",
    "CSROutput": "csr_hf.modeling_csr",
    "SparseCodes": "csr_hf.sparse_codes",
    "PackedCodes": "csr_hf.coding.packing",
    "CompactCodes": "csr_hf.coding.compact",
    "load_codes": "csr_hf.coding.compact",
    "Coder": "csr_hf.coding.coder",
    "CompactCoder": "csr_hf.coding.compact_coder",
    "load_coder": "csr_hf.coding.compact_coder",
    "fit_coder": "csr_hf.coding.fitting",
    "fit_index_coder": "csr_hf.coding.fitting",
    "Backbone": "csr_hf.embedding.backbone",
    "load_backbone": "csr_hf.embedding.loading",
    "CSREncoder": "csr_hf.encoder",
    "EmbeddingCache": "csr_hf.embedding.cache",
    "embed_dataset": "csr_hf.embedding.cache",
    "RunData": "csr_hf.data.run_data",
    "Source": "csr_hf.data.sources",
    "CSRTrainer": "csr_hf.training.trainer",
    "CSRTrainerCallback": "csr_hf.training.callbacks",
    "CSRTrainingArguments": "csr_hf.training.arguments",
    "InvertedIndex": "csr_hf.search.index",
    "SearchIndex": "csr_hf.search_index",
    "SearchParams": "csr_hf.search.params",
    "Results": "csr_hf.evaluation.results",
    "RunRecipe": "csr_hf.runs.recipe",
    "RunSearcher": "csr_hf.runs.searcher",
    "evaluate_mteb": "csr_hf.runs.mteb_benchmark",
    "Latents": "csr_hf.explain.latents",
    "describe_latents": "csr_hf.explain.describing",
    "explain_match": "csr_hf.explain.why",
    "explain_run": "csr_hf.explain.runs",
    "read_steering": "csr_hf.explain.steering",
    "steer_queries": "csr_hf.explain.steering",
    "MTEBArguments": "csr_hf.runs.arguments",
    "set_verbosity_debug": "csr_hf.plumbing.logs",
    "set_verbosity_info": "csr_hf.plumbing.logs",
    "set_verbosity_warning": "csr_hf.plumbing.logs",
    "set_verbosity_error": "csr_hf.plumbing.logs",
    "enable_progress_bars": "csr_hf.plumbing.logs",
    "disable_progress_bars": "csr_hf.plumbing.logs",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from csr_hf.coding.coder import Coder
    from csr_hf.coding.compact import CompactCodes, load_codes
    from csr_hf.coding.compact_coder import CompactCoder, load_coder
    from csr_hf.coding.fitting import fit_coder, fit_index_coder
    from csr_hf.coding.packing import PackedCodes
    from csr_hf.configuration_csr import CSRConfig
    from csr_hf.data.run_data import RunData
    from csr_hf.data.sources import Source
    from csr_hf.embedding.backbone import Backbone
    from csr_hf.embedding.cache import EmbeddingCache, embed_dataset
    from csr_hf.embedding.loading import load_backbone
    from csr_hf.encoder import CSREncoder
    from csr_hf.evaluation.results import Results
    from csr_hf.explain.describing import describe_latents
    from csr_hf.explain.latents import Latents
    from csr_hf.explain.runs import explain_run
    from csr_hf.explain.steering import read_steering, steer_queries
    from csr_hf.explain.why import explain_match
    from csr_hf.modeling_csr import CSRModel, CSROutput
    from csr_hf.plumbing.logs import (
        disable_progress_bars,
        enable_progress_bars,
        set_verbosity_debug,
        set_verbosity_error,
        set_verbosity_info,
        set_verbosity_warning,
    )
    from csr_hf.runs.arguments import MTEBArguments
    from csr_hf.runs.mteb_benchmark import evaluate_mteb
    from csr_hf.runs.recipe import RunRecipe
    from csr_hf.runs.searcher import RunSearcher
    from csr_hf.search.index import InvertedIndex
    from csr_hf.search.params import SearchParams
    from csr_hf.search_index import SearchIndex
    from csr_hf.sparse_codes import SparseCodes
    from csr_hf.training.arguments import CSRTrainingArguments
    from csr_hf.training.callbacks import CSRTrainerCallback
    from csr_hf.training.trainer import CSRTrainer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'csr_hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


auto_classes.register()
