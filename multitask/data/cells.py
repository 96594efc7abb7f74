"""What the cells of a column say: names, numbers, lists of tags. One function for each, for every table and column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.errors import TableError

# What may stand between the tags of a cell; the first of them that any cell of the column holds is it.
_DELIMITERS = (";", "|", ",")


def as_names(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return values as names: whole numbers without a decimal point, text as it is, None for a missing or empty one.

    Raises:
        TableError: a value is a list, or bytes that are no UTF-8 text.
    """
    try:
        codes, values = pd.factorize(column.to_numpy(object), use_na_sentinel=True)
    except TypeError:
        raise TableError("holds lists, where names are expected", where=f"column {column.name}") from None
    names = np.array([*(_name(value, column.name) for value in values), None], object)
    return names[codes]


def _name(value: Any, column: Any) -> str | None:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode() or None
        except UnicodeDecodeError:
            raise TableError(
                "is not UTF-8 text", where=f"column {column}", received=repr(value[:60]), fix="Write it as text."
            ) from None
    return str(value) or None


def as_numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Return values as numbers, text included; NaN for what is none."""
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def holds_lists(column: pd.Series[Any]) -> bool:
    """Tell whether cells are lists of tags: lists, or text with a delimiter in at least one of them."""
    return any(_is_list(value) or _delimiter([value]) for value in column.to_numpy(object))


def tag_lists(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return each cell as a tuple of tags, None for a missing one.

    A cell is a list, or text: `floral;dots`, `floral|dots`, `floral, dots`, `['floral', 'dots']`. An empty list and
    empty text say that there is no tag.
    """
    values = column.to_numpy(object)
    delimiter = _delimiter(values)
    found = np.empty(len(values), object)
    for row, value in enumerate(values):
        if _is_list(value):
            found[row] = tuple(str(tag) for tag in value if tag is not None)
        elif not pd.isna(value):
            found[row] = _split(str(value), delimiter)
    return found


def _split(text: str, delimiter: str) -> tuple[str, ...]:
    if text.startswith("[") and text.endswith("]"):
        text, delimiter = text[1:-1], ","
    parts = text.split(delimiter) if delimiter else [text]
    return tuple(tag for tag in (part.strip().strip("'\"") for part in parts) if tag)


def _delimiter(values: Iterable[Any]) -> str:
    """Return what stands between the tags of text cells; "" where nothing does."""
    text = [value for value in values if isinstance(value, str) and not re.fullmatch(r"\[.*\]", value)]
    listed = any(isinstance(value, str) and re.fullmatch(r"\[.*\]", value) for value in values)
    return next((mark for mark in _DELIMITERS if any(mark in value for value in text)), "," if listed else "")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | np.ndarray)
