"""Pictures that explain: what was taken for what, and where the network looked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation.kinds import EVALUATORS
from multitask.spec import ModelSpec, Task
from multitask.style import INK, RIGHT, STYLE, WRONG

# Pairs of a task, and photos of each.
PAIRS, PHOTOS = 3, 6
# Photos per task with what was looked at.
LOOKED_AT = 6

Arrays = Mapping[str, NDArray[np.float32]]
# Reads the picture of a row, RGB.
Picture = Callable[[int], NDArray[np.uint8]]
# Returns maps (rows, ...) of 0..1 for rows and their answers of a task, or None.
Attend = Callable[[str, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32] | None]


def explain_pictures(
    spec: ModelSpec, labels: Arrays, scores: Arrays, picture: Picture, attend: Attend | None = None
) -> dict[str, Figure]:
    """Draw per task the pairs that are confused most, and what was looked at; nothing where there is nothing to see."""
    figures = {}
    for task in spec.tasks:
        given = (labels[task.name], scores[task.name])
        strips = _strips(task, *given)
        if strips:
            figures[f"{task.name}_confused"] = _plot_strips(strips, picture)
        rows, answers = _typical(task, *given)
        maps = attend(task.name, rows, answers) if attend is not None and len(rows) else None
        if maps is not None:
            words = [EVALUATORS[task.kind].answer(task, given[1][row], given[0][row]).said for row in rows]
            figures[f"{task.name}_attention"] = _plot_attention(task, rows, answers, words, maps, picture)
    return figures


def _strips(task: Task, labels: NDArray[np.float32], scores: NDArray[np.float32]) -> list[tuple[str, str, list[int]]]:
    """Return strips of photos: a heading, "" or the colour of its edge, and rows."""
    if task.kind == "multiclass":
        return _of_classes(task, labels, scores)
    return _of_tags(task, labels, scores) if task.kind == "multilabel" else []


def _of_classes(task: Task, labels: NDArray[np.float32], scores: NDArray[np.float32]) -> list[Any]:
    """Return for the most confused pairs the photos that were, between photos of either class that were right."""
    best, sure = scores.argmax(axis=1), scores.max(axis=1)
    confusion = EVALUATORS["multiclass"].confusion(task, labels, scores)
    assert confusion is not None
    np.fill_diagonal(confusion, 0)
    strips = []
    for place in np.argsort(-confusion, axis=None, kind="stable")[:PAIRS]:
        true, given = divmod(int(place), len(task.classes))
        if not confusion[true, given]:
            break
        wrong = np.flatnonzero((labels == true) & (best == given))
        heading = f"{task.classes[true]} taken for {task.classes[given]}: {len(wrong)} of {(labels == true).sum():.0f}"
        strips.append((heading, WRONG, _surest(wrong, sure)))
        both = [np.flatnonzero((labels == number) & (best == number)) for number in (true, given)]
        half = PHOTOS // 2
        right = [*_surest(both[0], sure)[:half], *_surest(both[1], sure)[:half]]
        if len(both[0]) >= half:
            strips.append((f"right: {task.classes[true]}, then {task.classes[given]}", RIGHT, right))
    return strips


def _of_tags(task: Task, labels: NDArray[np.float32], scores: NDArray[np.float32]) -> list[Any]:
    """Return photos of the tag that is missed most, and of that which is seen wrongly most."""
    seen = scores >= np.asarray(task.settled_thresholds(), np.float32)
    strips = []
    for words, wrong in (("missed", (labels == 1) & ~seen), ("seen where it is not", (labels == 0) & seen)):
        tag = int(wrong.sum(axis=0).argmax())
        rows = np.flatnonzero(wrong[:, tag])
        if len(rows):
            of = int((labels[:, tag] == (words == "missed")).sum())
            far = np.abs(scores[:, tag] - task.settled_thresholds()[tag])
            strips.append((f"{task.classes[tag]} {words}: {len(rows)} of {of}", WRONG, _surest(rows, far)))
    return strips


def _surest(rows: NDArray[np.int64], sure: NDArray[np.float32]) -> list[int]:
    return rows[np.argsort(-sure[rows], kind="stable")][:PHOTOS].tolist()


def _plot_strips(strips: Sequence[tuple[str, str, list[int]]], picture: Picture) -> Figure:
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.75 * PHOTOS, 2.05 * len(strips)), layout="constrained")
        parts: Any = figure.subfigures(len(strips), 1, squeeze=False)
        for part, (heading, colour, rows) in zip(parts[:, 0], strips, strict=True):
            part.suptitle(heading, x=0.01, ha="left", fontsize=10, fontweight="bold", color=colour)
            for number, axes in enumerate(part.subplots(1, PHOTOS, squeeze=False)[0]):
                axes.axis("off")
                if number < len(rows):
                    axes.imshow(picture(rows[number]))
    return figure


def _typical(
    task: Task, labels: NDArray[np.float32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and the answers that maps are drawn for: the surest photo of several answers, each its own."""
    if task.kind == "multiclass":
        answers = scores.argmax(axis=1)
        strength = scores.max(axis=1)
    elif task.kind == "multilabel":
        relative = scores - np.asarray(task.settled_thresholds(), np.float32)
        answers, strength = relative.argmax(axis=1), relative.max(axis=1)
    else:
        spread = np.abs(scores - np.nanmean(scores, axis=0)) / np.asarray(task.units(), np.float32)
        answers, strength = spread.argmax(axis=1), spread.max(axis=1)
    order = np.argsort(-strength, kind="stable")
    # The first of every answer, then the second of every answer, and so on.
    turns = np.zeros(len(order), np.int64)
    seen: dict[int, int] = {}
    for place, row in enumerate(order.tolist()):
        turns[place] = seen[int(answers[row])] = seen.get(int(answers[row]), -1) + 1
    rows = order[np.argsort(turns, kind="stable")][:LOOKED_AT]
    return rows.astype(np.int64), answers[rows].astype(np.int64)


def _plot_attention(
    task: Task,
    rows: NDArray[np.int64],
    answers: NDArray[np.int64],
    words: Sequence[str],
    maps: NDArray[np.float32],
    picture: Picture,
) -> Figure:
    """Draw each photo, and beside it the same with what spoke for its answer."""
    with rc_context({**STYLE, "axes.grid": False}):
        lines = -(-len(rows) // 3)
        figure = Figure(figsize=(10.2, 2.15 * lines), layout="constrained")
        grid = figure.subplots(lines, 6, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for number, (row, answer) in enumerate(zip(rows.tolist(), answers.tolist(), strict=True)):
            plain, seen = grid[number // 3, 2 * (number % 3) : 2 * (number % 3) + 2]
            pixels = picture(row)
            height, width = pixels.shape[:2]
            plain.imshow(pixels)
            plain.set_title(words[number], fontsize=8, color=INK, loc="left", fontweight="normal")
            seen.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            seen.imshow(
                maps[number], cmap="inferno", alpha=0.55, extent=extent, interpolation="bilinear", vmin=0, vmax=1
            )
            seen.set_title(f"for {task.classes[answer]}", fontsize=8, color=INK, loc="left", fontweight="normal")
    return figure
