"""Columns of a data set as lists, for libraries that read them value by value."""

from __future__ import annotations

from typing import Any

from datasets import Dataset


class ListDataset(Dataset):
    """A data set whose columns are lists.

    mteb reads the labels of a classification task one by one, for every draw and every score: from a lazy column of
    ten thousand rows that takes seconds each time, from a list milliseconds.
    """

    def __getitem__(self, key: Any) -> Any:
        """Return a row, rows, or a column as a list."""
        found = super().__getitem__(key)
        return found[:] if isinstance(key, str) else found


def read_columns_at_once(splits: Any) -> None:
    """Make every data set in nested dictionaries of splits a `ListDataset`, in place."""
    if not isinstance(splits, dict):
        return
    for value in splits.values():
        if type(value) is Dataset:
            value.__class__ = ListDataset
        else:
            read_columns_at_once(value)
