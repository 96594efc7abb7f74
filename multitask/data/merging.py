"""New labels into an old table: what is known later counts, what it does not say stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from multitask.errors import TableError


def merge_labels(
    old: pd.DataFrame, new: pd.DataFrame, id_column: str, columns: Sequence[str]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Merge new rows into an old table by their ids.

    A row of a new id is appended. A row of a known id replaces, in all old rows of that id, the values that it has; of
    several new rows of one id the last value counts. An empty cell says nothing.

    Args:
        old, new: tables with the id column.
        id_column: of both.
        columns: label columns; the new table needs one of them at least.

    Returns:
        The merged table, old rows first and in their order; and how many new ids were appended, changed or told nothing
        new.

    Raises:
        TableError: the new table lacks the id column, or every label column.
    """
    if id_column not in new or not any(name in new for name in columns):
        raise TableError(
            "holds no labels" if id_column in new else "has no id column",
            where="the new table",
            expected=f"{id_column} and some of {', '.join(columns)}",
            received=f"columns {', '.join(map(str, new.columns))}",
        )
    old, new = old.copy(), new[new[id_column].notna()].copy()
    old[id_column], new[id_column] = old[id_column].astype(str), new[id_column].astype(str)
    latest = new.groupby(id_column, sort=False).last()
    known = latest.index.isin(old[id_column])
    changed: set[str] = set()
    for name in latest.columns.intersection(old.columns):
        told = old[id_column].map(latest[name])
        differs = told.notna() & ~_equal(told, old[name])
        changed |= set(old.loc[differs, id_column])
        if differs.any():
            old[name] = old[name].astype(object).where(~differs, told).infer_objects()
    appended = latest[~known].reset_index()
    merged = pd.concat([old, appended], ignore_index=True).infer_objects() if len(appended) else old
    counts = Counter(appended=len(appended), changed=len(changed), unchanged=int(known.sum()) - len(changed))
    return merged, counts


def _equal(left: pd.Series, right: pd.Series) -> pd.Series:
    """Compare what two tables say, whose numbers may be of different types."""
    return (left == right) | (left.astype(str) == right.astype(str))
