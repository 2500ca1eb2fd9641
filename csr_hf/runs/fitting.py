"""Train on what a caller holds in memory: keep it as a file, so that it is a run like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.embedding.backbone import Backbone
from csr_hf.embedding.inputs import as_sequence, iter_texts
from csr_hf.plumbing.atomic import write_whole
from csr_hf.plumbing.distributed import from_first_process
from csr_hf.runs.pipeline import run
from csr_hf.runs.recipe import RunRecipe
from csr_hf.runs.state import check_recipe

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_ROWS = 1000


def fit(backbone: Backbone, given: Any, recipe: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Run a recipe on data that a caller gives, with a backbone that is loaded already.

    What is in memory is kept as a file beside the embeddings, under a hash of its content, which the recipe names:
    `csr-hf run` takes the resolved recipe as it is.

    Args:
        backbone: the frozen model. What the recipe says of one is replaced.
        given: what `CSREncoder.fit` takes.
        recipe: sections, as in a YAML file.
        overwrite: as for `run`.

    Raises:
        ValueError: as `run` does, or for what is no data.
    """
    dataset = None if isinstance(given, str | Path) else _as_dataset(given)
    own = {f"backbone.{name}": value for name, value in backbone.settings.keywords().items()}
    own |= {"backbone.name_or_path": backbone.name, "backbone.revision": backbone.revision}
    resolved = RunRecipe.from_dict(dict(recipe), {**own, "data.source": str(given) if dataset is None else ""})
    if dataset is not None:
        if not len(dataset):
            raise ValueError("`inputs` is empty: there is nothing to learn from. Give texts.")
        path = _path_of(dataset, resolved)
        resolved.data.source = str(path)
        # Before anything is written: the folder may hold a run on other texts.
        from_first_process(lambda: check_recipe("a run", resolved, overwrite=overwrite))
        from_first_process(lambda: _keep(dataset, path))
    run(resolved, backbone=backbone, overwrite=overwrite)


def _as_dataset(given: Any) -> Dataset:
    """Make a data set of texts, pairs, rows or columns."""
    from datasets import Dataset

    if isinstance(given, Dataset):
        return given
    kind = type(given)
    package = kind.__module__.partition(".")[0]
    if isinstance(given, Mapping) and package != "datasets":
        return Dataset.from_dict({name: list(column) for name, column in given.items()})
    if package == "pandas" and hasattr(given, "columns"):
        return Dataset.from_pandas(given, preserve_index=False)
    if package == "polars" and hasattr(given, "columns"):
        return Dataset.from_polars(given)
    rows = as_sequence(given)
    if len(rows) and isinstance(rows[0], Mapping):
        return Dataset.from_list(list(rows))
    if len(rows) and isinstance(rows[0], tuple | list):
        names = ("anchor", "positive", "negative")
        wrong = next((number for number, row in enumerate(rows) if len(row) not in (2, 3)), None)
        if wrong is not None or len({len(row) for row in rows}) > 1:
            raise ValueError(
                f"`inputs` holds tuples, of which inputs[{wrong or 0}] has {len(rows[wrong or 0])} parts. Give pairs, "
                "(question, answer), or all with a third part, a text that does not answer."
            )
        return Dataset.from_dict(dict(zip(names, map(list, zip(*rows, strict=True)), strict=False)))
    return Dataset.from_dict({"text": list(iter_texts(rows))})


def _path_of(dataset: Dataset, recipe: RunRecipe) -> Path:
    """Return where a data set is kept, by a hash of its rows."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in dataset.with_format("arrow").iter(_BATCH_ROWS):
        table = batch.replace_schema_metadata(None).combine_chunks()
        for part in table.to_batches():
            digest.update(str(part.schema).encode() + part.serialize())
    return recipe.embeddings_dir / "given" / digest.hexdigest() / "texts.parquet"


def _keep(dataset: Dataset, path: Path) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as temporary:
        dataset.to_parquet(str(temporary))
