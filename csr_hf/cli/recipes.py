"""The recipe that a file and the flags of a command make together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation
    from csr_hf.cli.options import RecipeSource
    from csr_hf.runs.recipe import RunRecipe


# Nothing is trained or measured, so nothing is held out.
_INDEXED_WHOLE = {
    "data.held_out": 0,
    "training.eval_steps": 0,
    "training.load_best_model_at_end": False,
    "training.early_stopping_patience": None,
}


def read_recipe(called: Invocation) -> RunRecipe:
    """Make the recipe that a file, `--corpus`, `--head` and the keys given as flags say together; flags win."""
    from csr_hf.runs.recipe import RunRecipe

    options: RecipeSource = called.options[0]
    flags = {
        "output_dir": options.output_dir,
        "cache_dir": options.cache_dir,
        "data.limit": options.limit,
        "data.skip_bad": options.skip_bad or None,
        "data.id_column": getattr(options, "id_column", None),
        "data.keep": getattr(options, "keep", None) or None,
        "model.k": getattr(options, "k", None),
        "backbone.device": called.device,
        "backbone.name_or_path": options.backbone,
        **_keys_of_head(options),
        **_keys_of_corpus(options, called.keys),
    }
    fixed = _INDEXED_WHOLE if called.name == "index" else {}
    given = {**fixed, **{key: value for key, value in flags.items() if value is not None}, **called.keys}
    return RunRecipe.from_dict({}, given) if options.recipe is None else RunRecipe.load(options.recipe, given)


def _keys_of_corpus(options: RecipeSource, given: dict[str, Any]) -> dict[str, Any]:
    """Say what `--corpus` says as keys of a recipe; `--data.source` without a recipe says the same."""
    corpus = options.corpus
    if corpus is None and options.recipe is None and isinstance(given.get("data.source"), str):
        corpus = given["data.source"]
    if corpus is None:
        if options.recipe is None and not given.get("data.sources"):
            raise ValueError("give a recipe, or the texts to learn from: --corpus docs.parquet --text-column body.")
        if options.text_column:
            raise ValueError("--text-column goes with --corpus. In a recipe it is `data.columns`.")
        return {}
    keys: dict[str, Any] = {"data.source": corpus, "data.sources": []}
    if options.text_column:
        keys["data.columns"] = {"text": options.text_column}
    if options.recipe is None and options.output_dir is None:
        keys["output_dir"] = str(Path("runs") / Path(corpus).stem)
    return keys


def _keys_of_head(options: RecipeSource) -> dict[str, Any]:
    """Say what `--head` says as keys of a recipe: its backbone and k too, unless they are given."""
    if options.head is None:
        return {}
    from csr_hf.data.array_files import holds_arrays
    from csr_hf.embedding.arguments import BackboneSettings
    from csr_hf.heads import load_head
    from csr_hf.repository import open_repository

    config = load_head(open_repository(options.head)).config
    keys: dict[str, Any] = {"model.init": options.head}
    # Embeddings that are given need no backbone.
    needs_backbone = options.corpus is None or not holds_arrays(options.corpus)
    if options.backbone is None and (needs_backbone or config.base_model_name_or_path is not None):
        if config.base_model_name_or_path is None:
            raise ValueError(f"{options.head} names no backbone. Say which one with --backbone.")
        keys["backbone.name_or_path"] = config.base_model_name_or_path
        keys["backbone.revision"] = config.base_model_revision
        settings = BackboneSettings.from_config(config.base_model_settings, options.head)
        keys |= {f"backbone.{key}": value for key, value in settings.to_record().items()}
    if getattr(options, "k", None) is None:
        keys["model.k"] = config.k
    return keys
