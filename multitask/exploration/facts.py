"""What a label table and its images say about themselves before any training: counts, defects, baselines, advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.audit.rows import Audit
from multitask.data.tables import Table
from multitask.exploration.advice import advise
from multitask.exploration.kinds import EXPLORERS, describe_task
from multitask.spec import Task

# Images are called dark, bright, flat or blurred beyond these; set by looking at photos of clothes.
DARK, BRIGHT, BLANK, BLURRED = 0.22, 0.93, 0.02, 45.0
EXAMPLES = 12

Labels = NDArray[np.float32]


@dataclass(frozen=True)
class Exploration:
    """Facts ready for JSON, and which rows show them.

    Args:
        facts: `table`, `images`, `tasks`, `correlation`, `splits` and `advice`; see audit.json.
        examples: row numbers by defect, worst first.
        columns: names of the label columns, in the order of the correlation matrix.
        correlation: (columns, columns) phi coefficients of classes and tags.
    """

    facts: dict[str, Any]
    examples: dict[str, list[int]]
    columns: list[str]
    correlation: NDArray[np.float64]


def explore_data(
    frame: pd.DataFrame,
    table: Table,
    tasks: Sequence[Task],
    audit: Audit | None,
    parts: NDArray[np.object_] | None,
    orphans: Sequence[str],
    groups: NDArray[np.int64] | None,
) -> Exploration:
    """Put together what is known.

    Args:
        frame: the label table as it was read.
        table: the same, labels as numbers.
        tasks: of the model.
        audit: of the images; None when there are none.
        parts: (rows,) split of each row, "" for rows that are not used.
        orphans: ids of images that no row names.
        groups: (rows,) which rows stay together.
    """
    columns = [f"{task.name}: {name}" for task in tasks for name in task.classes]
    correlation = correlate([EXPLORERS[task.kind].values(task, table.labels[task.name]) for task in tasks])
    facts: dict[str, Any] = {
        "table": _table_facts(frame, table, tasks, audit, orphans),
        "tasks": {task.name: describe_task(task, table.labels[task.name]) for task in tasks},
    }
    examples: dict[str, list[int]] = {}
    if audit is not None:
        facts["images"], examples = _image_facts(audit)
    facts["correlation"] = _strong_pairs(columns, correlation, tasks)
    if parts is not None and groups is not None:
        facts["splits"] = _split_facts(splits.strata(tasks), splits.indicators(table.labels, tasks), parts, groups)
    facts["advice"] = advise(facts)
    return Exploration(facts, examples, columns, correlation)


def _table_facts(
    frame: pd.DataFrame, table: Table, tasks: Sequence[Task], audit: Audit | None, orphans: Sequence[str]
) -> dict[str, Any]:
    counts = Counter(name for name in table.ids if name)
    repeated = [name for name, count in counts.items() if count > 1]
    return {
        "rows": len(table),
        "ids": len(counts),
        "rows_without_id": int((table.ids == "").sum()),
        "repeated_ids": len(repeated),
        "repeated_ids_with_conflicting_labels": len(_conflicting(table, tasks, set(repeated))),
        "repeated_id_examples": repeated[:EXAMPLES],
        "images_without_row": len(orphans),
        "images_without_row_examples": list(orphans[:EXAMPLES]),
        "rows_that_cannot_be_used": 0 if audit is None else int((audit.reasons != "").sum()),
        "reasons": {} if audit is None else _kinds(audit.reasons),
        "types": [line for task in tasks for line in EXPLORERS[task.kind].surprises(task, frame)],
    }


def _conflicting(table: Table, tasks: Sequence[Task], repeated: set[str]) -> list[str]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table.ids):
        if name in repeated:
            rows.setdefault(name, []).append(row)
    labels = np.concatenate([table.labels[task.name].reshape(len(table), -1) for task in tasks], axis=1)
    return [
        name
        for name, members in rows.items()
        if (np.nanmax(labels[members], axis=0, initial=-1) > np.nanmin(labels[members], axis=0, initial=np.inf)).any()
    ]


def _kinds(reasons: NDArray[np.object_]) -> dict[str, int]:
    """Count reasons by their part before the details."""
    return dict(Counter(str(reason).split(":")[0] for reason in reasons if reason).most_common())


def _image_facts(audit: Audit) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Describe the distinct images, and name rows by defect, the worst first."""
    first: dict[str, int] = {}
    for row, look in enumerate(audit.looks):
        if look.digest:
            first.setdefault(look.digest, row)
    rows = [row for row in first.values() if not audit.looks[row].reason]
    looks = [audit.looks[row] for row in rows]

    def worst(measure: str, limit: float, above: bool = False) -> list[int]:
        sign = -1 if above else 1
        ranked = sorted((sign * getattr(look, measure), row) for look, row in zip(looks, rows, strict=True))
        return [row for value, row in ranked if value < sign * limit]

    blank = worst("contrast", BLANK)
    # Drawings and prints are smooth as a whole; blurred is what is much less sharp than the others.
    blurred = min(BLURRED, float(np.median([look.sharpness for look in looks] or [0.0])) / 8)
    examples = {
        "broken": [row for row in first.values() if audit.looks[row].reason],
        "blank": blank,
        "dark": [row for row in worst("brightness", DARK) if row not in blank],
        "bright": [row for row in worst("brightness", BRIGHT, above=True) if row not in blank],
        "blurred": [row for row in worst("sharpness", blurred) if row not in blank],
        "repeated": _together([look.digest for look in audit.looks], audit),
        "alike": _together([number if number >= 0 else "" for number in audit.alike.tolist()], audit, distinct=True),
    }
    sizes = np.array([[look.width, look.height] for look in looks]).reshape(-1, 2)
    facts = {
        "readable": len(rows),
        "formats": dict(Counter(look.format for look in looks).most_common()),
        "width": _quantiles(sizes[:, 0]),
        "height": _quantiles(sizes[:, 1]),
        "turned_by_exif": sum(look.orientation != 1 for look in looks),
        **{name: len(found) for name, found in examples.items() if name not in ("repeated", "alike")},
        "rows_of_repeated_files": len(examples["repeated"]),
        "groups_of_repeated_files": len({audit.looks[row].digest for row in examples["repeated"]}),
        "rows_of_nearly_the_same_picture": len(examples["alike"]),
        "groups_of_nearly_the_same_picture": len({int(audit.alike[row]) for row in examples["alike"]}),
    }
    return facts, examples


def _together(keys: Sequence[Any], audit: Audit, distinct: bool = False) -> list[int]:
    """Return rows that share a key, those of one key side by side; with `distinct` only where their files differ."""
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        if key != "":
            rows.setdefault(key, []).append(row)
    found = []
    for members in rows.values():
        files = {audit.looks[row].digest: row for row in reversed(members)}
        members = sorted(files.values()) if distinct else members
        if len(members) > 1:
            found += members
    return found


def _quantiles(values: NDArray[np.int64]) -> dict[str, int]:
    if not len(values):
        return {}
    return dict(zip(("least", "median", "most"), map(int, np.quantile(values, (0, 0.5, 1))), strict=True))


def correlate(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the correlation of every pair of label columns; 0 for one that is the same in all rows.

    Of marks of classes and tags it is the phi coefficient. A missing label counts as the mean of its column.
    """
    columns = np.concatenate(values, axis=1).astype(np.float64)
    known = ~np.isnan(columns)
    means = np.where(known, columns, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, columns - means, 0.0)
    norms = np.sqrt(np.square(centred).sum(axis=0))
    scaled = centred / np.where(norms > 0, norms, 1.0)
    return scaled.T @ scaled


def _strong_pairs(
    columns: Sequence[str], correlation: NDArray[np.float64], tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    """Return the strongest correlations between labels of different tasks, or between tags."""
    task_of = [task for task in tasks for _ in task.classes]
    pairs = [
        (one, other)
        for one in range(len(columns))
        for other in range(one)
        if task_of[one] is not task_of[other] or not task_of[one].has_class_numbers
    ]
    pairs.sort(key=lambda pair: -abs(correlation[pair]))
    return [
        {"labels": [columns[other], columns[one]], "phi": round(float(correlation[one, other]), 3)}
        for one, other in pairs[:EXAMPLES]
    ]


def _split_facts(
    columns: Sequence[str], marks: NDArray[np.bool_], parts: NDArray[np.object_], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Describe the split that a training with these settings makes."""
    used = parts != ""
    shares = {str(part): marks[parts == part].mean(axis=0) for part in splits.PARTS if (parts == part).any()}
    whole = marks[used].mean(axis=0)
    per_group = pd.Series(parts[used]).groupby(groups[used]).nunique()
    return {
        "rows": {part: int((parts == part).sum()) for part in splits.PARTS},
        "groups": int(per_group.size),
        "groups_on_two_sides": int((per_group > 1).sum()),
        "largest_deviation": {
            part: {
                "label": columns[int(np.abs(values - whole).argmax())],
                "by": round(float(np.abs(values - whole).max()), 4),
            }
            for part, values in shares.items()
        },
    }
