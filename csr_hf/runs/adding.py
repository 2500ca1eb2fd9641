"""Add documents to the index of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from csr_hf.data.arguments import DataArguments
from csr_hf.data.run_data import prompt_name
from csr_hf.data.sources import load_sources
from csr_hf.runs.folder import RunFolder
from csr_hf.runs.recipe import RunRecipe
from csr_hf.search.documents import append_documents, make_documents
from csr_hf.search_index import SearchIndex
from csr_hf.search_inputs import ID, embed


def add_documents(
    folder: str | Path,
    source: str,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    replace: bool = False,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[int, int]:
    """Embed and index the documents of a data set as those of a run were, and save its index.

    Args:
        folder: output folder of the run.
        source: file, folder or Hub id of the data set. Without a column of ids, its rows get the numbers after the
            largest there is.
        text_column: its column of texts; default as the recipe of the run says.
        id_column: its column of ids; default as the recipe says.
        replace: documents whose id is in use take its place; else they are refused.
        device: of backbone and head; default the best there is.
        trust_remote_code: run code of the backbone's repository.

    Returns:
        How many documents were added, and how many there are.

    Raises:
        ValueError: as `SearchIndex.load`, `load_sources` and `SearchIndex.add` do, and if another process saved to the
            folder meanwhile.
    """
    files = RunFolder.of(folder)
    index = SearchIndex.load(folder, device=device, trust_remote_code=trust_remote_code)
    recipe = RunRecipe.load(files.recipe) if files.recipe.is_file() else None
    (rows,) = load_sources(_read_arguments(recipe, source, text_column, id_column))
    shown, known, role = rows.show_documents(), index.index.documents, rows.document_role
    if shown is None or known is None:
        raise ValueError(f"{folder} or {source} has no texts. Add embeddings in Python: csr_hf.InvertedIndex.add.")
    ids = list(shown[ID]) if rows.has_ids else _number_after(index, len(shown))
    columns = [name for name in shown.column_names if name != ID and name in known.column_names]
    new = append_documents([known], make_documents(None, shown.select_columns(columns), len(ids)), len(ids))
    backbone = index.encoder.backbone
    named = None if backbone is None else prompt_name(role, backbone)
    embeddings = embed(index.encoder, rows.inputs(role), "document", named)
    index.index.add(embeddings, index.coder, index.read_ids(ids), replace=replace, documents=new)
    index.save(folder)
    return len(ids), len(index)


def _read_arguments(
    recipe: RunRecipe | None, source: str, text_column: str | None, id_column: str | None
) -> DataArguments:
    """Say what is read of a data set: the columns that the recipe of the run names, but for what is given."""
    given: dict[str, Any] = {"source": source, "held_out": 0.0}
    if recipe is not None:
        own = (recipe.data.sources or [recipe.data])[0]
        role = {"text": "text", "positive": "text", "image": "image"}
        columns = {role[name]: column for name, column in own.columns.items() if name in role}
        given |= {"columns": columns, "keep": own.keep or recipe.data.keep, "id_column": own.id_column}
        given |= {"max_characters": recipe.data.max_characters, "skip_bad": recipe.data.skip_bad}
    if text_column is not None:
        given["columns"] = {"text": text_column}
    if id_column is not None:
        given["id_column"] = id_column
    return DataArguments(**given)


def _number_after(index: SearchIndex, n: int) -> list[str]:
    """Return the numbers after the largest id that is one, as texts."""
    table = index.index.documents
    every = index.index.ids_of(np.arange(0 if table is None else table.num_rows)).tolist()
    largest = max((int(one) for one in every if str(one).isascii() and str(one).isdigit()), default=-1)
    return [str(largest + 1 + row) for row in range(n)]
