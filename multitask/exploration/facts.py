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
from multitask.audit.division import crossing
from multitask.audit.rows import Audit
from multitask.data.tables import Table
from multitask.exploration.advice import advise
from multitask.exploration.kinds import EXPLORERS, describe_task
from multitask.spec import Task

# Images are called dark, bright, flat or blurred beyond these; set by looking at photos of clothes.
DARK, BRIGHT, BLANK, BLURRED = 0.22, 0.93, 0.02, 45.0
EXAMPLES = 12
_ROWS_AT_ONCE = 1 << 16

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
    codes, names = pd.factorize(pd.Series(table.ids).replace("", None).to_numpy(object))
    repeated = np.flatnonzero(np.bincount(codes + 1, minlength=len(names) + 1)[1:] > 1)
    return {
        "rows": len(table),
        "ids": len(names),
        "rows_without_id": int((table.ids == "").sum()),
        "repeated_ids": len(repeated),
        "repeated_ids_with_conflicting_labels": _conflicting(table, tasks, codes, repeated),
        "repeated_id_examples": names[repeated[:EXAMPLES]].tolist(),
        "images_without_row": len(orphans),
        "images_without_row_examples": list(orphans[:EXAMPLES]),
        "rows_that_cannot_be_used": 0 if audit is None else int((audit.reasons != "").sum()),
        "reasons": {} if audit is None else _kinds(audit.reasons),
        "types": [line for task in tasks for line in EXPLORERS[task.kind].surprises(task, frame)],
    }


def _conflicting(table: Table, tasks: Sequence[Task], codes: NDArray[np.int64], repeated: NDArray[np.int64]) -> int:
    """Count ids whose rows have different labels; a missing label contradicts nothing."""
    if not len(repeated):
        return 0
    rows = np.flatnonzero(np.isin(codes, repeated))
    differs = np.zeros(len(repeated), bool)
    for task in tasks:
        labels = pd.DataFrame(table.labels[task.name][rows].reshape(len(rows), -1)).groupby(codes[rows])
        differs |= (labels.max() > labels.min()).any(axis=1).to_numpy()
    return int(differs.sum())


def _kinds(reasons: NDArray[np.object_]) -> dict[str, int]:
    """Count reasons by their part before the details."""
    return dict(Counter(str(reason).split(":")[0] for reason in reasons if reason).most_common())


def _image_facts(audit: Audit) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Describe the distinct images, and name rows by defect, the worst first."""
    looks = audit.looks
    shown, first = np.unique(audit.images[::-1], return_index=True)
    # The first row of each image, by the order of rows.
    rows = np.sort(len(audit.images) - 1 - first[shown >= 0])
    is_readable = looks.reason[audit.images[rows]] == ""
    broken, rows = rows[~is_readable], rows[is_readable]
    looks = looks.take(audit.images[rows])

    def worst(values: NDArray[np.float32], limit: float, but: NDArray[np.bool_]) -> NDArray[np.int64]:
        order = np.argsort(values, kind="stable")
        return rows[order[(values[order] < limit) & ~but[order]]]

    is_blank, none = looks.contrast < BLANK, np.zeros(len(rows), bool)
    # Drawings and prints are smooth as a whole; blurred is what is much less sharp than the others.
    blurred = min(BLURRED, float(np.median(looks.sharpness)) / 8) if len(rows) else BLURRED
    found = {
        "broken": broken,
        "blank": worst(looks.contrast, BLANK, none),
        "dark": worst(looks.brightness, DARK, is_blank),
        "bright": worst(-looks.brightness, -BRIGHT, is_blank),
        "blurred": worst(looks.sharpness, blurred, is_blank),
        "repeated": _together(audit.images, np.arange(len(audit.images))),
        "alike": _together(audit.alike, np.sort(np.append(broken, rows))),
    }
    facts = {
        "readable": len(rows),
        "formats": {str(name): int(count) for name, count in pd.Series(looks.format).value_counts().items()},
        "width": _quantiles(looks.width),
        "height": _quantiles(looks.height),
        "turned_by_exif": int((looks.orientation != 1).sum()),
        **{name: len(members) for name, members in found.items() if name not in ("repeated", "alike")},
        "rows_of_repeated_files": len(found["repeated"]),
        "groups_of_repeated_files": len(np.unique(audit.images[found["repeated"]])),
        "rows_of_nearly_the_same_picture": len(found["alike"]),
        "groups_of_nearly_the_same_picture": len(np.unique(audit.alike[found["alike"]])),
        "warnings": list(audit.warnings),
    }
    return facts, {name: members.tolist() for name, members in found.items()}


def _together(numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of some rows that share a number with another one, rows of one number side by side; -1 is none."""
    rows = rows[numbers[rows] >= 0]
    rows = rows[np.bincount(numbers[rows])[numbers[rows]] > 1] if len(rows) else rows
    codes, _ = pd.factorize(numbers[rows])
    return rows[np.argsort(codes, kind="stable")]


def _quantiles(values: NDArray[np.int32]) -> dict[str, int]:
    if not len(values):
        return {}
    return dict(zip(("least", "median", "most"), map(int, np.quantile(values, (0, 0.5, 1))), strict=True))


def correlate(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the correlation of every pair of label columns over the rows that have both; 0 where one does not vary.

    Of marks of classes and tags it is the phi coefficient. Means are those of all known labels of a column.
    """
    count = sum(block.shape[1] for block in values)
    rows = len(values[0])
    means = np.array([_mean(column) for block in values for column in block.T])
    products, squares = np.zeros((count, count)), np.zeros((count, count))
    for at in range(0, rows, _ROWS_AT_ONCE):
        part = np.concatenate([block[at : at + _ROWS_AT_ONCE] for block in values], axis=1).astype(np.float64)
        known = (~np.isnan(part)).astype(np.float64)
        centred = np.where(known > 0, part - means, 0.0)
        products += centred.T @ centred
        squares += np.square(centred).T @ known
    norms = np.sqrt(squares * squares.T)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def _mean(column: NDArray[np.float32]) -> float:
    known = column[~np.isnan(column)]
    return float(known.mean(dtype=np.float64)) if len(known) else 0.0


def _strong_pairs(
    columns: Sequence[str], correlation: NDArray[np.float64], tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    """Return the strongest correlations between labels of different tasks, or between tags."""
    task_of = np.repeat(np.arange(len(tasks)), [len(task.classes) for task in tasks])
    exclusive = np.array([task.has_class_numbers for task in tasks])[task_of]
    others, ones = np.triu_indices(len(columns), 1)
    kept = (task_of[ones] != task_of[others]) | ~exclusive[ones]
    ones, others = ones[kept], others[kept]
    strongest = np.argsort(-np.abs(correlation[ones, others]), kind="stable")[:EXAMPLES]
    return [
        {"labels": [columns[other], columns[one]], "phi": round(float(correlation[one, other]), 3)}
        for one, other in zip(ones[strongest], others[strongest], strict=True)
    ]


def _split_facts(
    columns: Sequence[str], marks: NDArray[np.bool_], parts: NDArray[np.object_], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Describe the split that a training with these settings makes."""
    used = parts != ""
    shares = {str(part): marks[parts == part].mean(axis=0) for part in splits.PARTS if (parts == part).any()}
    whole = marks[used].mean(axis=0)
    return {
        "rows": {part: int((parts == part).sum()) for part in splits.PARTS},
        "groups": len(np.unique(groups[used])),
        "groups_on_two_sides": crossing(groups[used], parts[used]),
        "largest_deviation": {
            part: {
                "label": columns[int(np.abs(values - whole).argmax())],
                "by": round(float(np.abs(values - whole).max()), 4),
            }
            for part, values in shares.items()
        },
    }
