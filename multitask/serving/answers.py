"""Scores as answers for people: names, confidences, tags against their thresholds; in words or drawn on the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from multitask.audit.inspection import explain_unreadable, open_picture
from multitask.data.tables import decisions
from multitask.prediction.protocol import Scores
from multitask.spec import ModelSpec, Task

# A drawn picture is for looking at; more pixels only take longer to send.
DRAWN_PIXELS = 1024
# Least width, so that a name and its score fit on a line below a small picture.
DRAWN_WIDTH = 320


def describe(spec: ModelSpec, images: Sequence[bytes], scores: Scores) -> list[dict[str, Any]]:
    """Return one answer per image, ready for JSON.

    Returns:
        Per image `ok`, `status` ("ok" or why not) and, if ok, `label` and `confidence` (of the first multiclass task),
        `tags` (names of all present tags) and `tasks`: per task its classes, each with `name`, `score` and, for
        multiclass the best first, whether it is one of the `top_k`; for tags `threshold` and whether `present`.
    """
    return [_describe(spec, data, scores, row) for row, data in enumerate(images)]


def draw(data: bytes, answer: dict[str, Any], max_pixels: int) -> bytes:
    """Return the picture as JPEG with its answer written below; nothing for what Pillow cannot read."""
    picture = open_picture(data, DRAWN_PIXELS, max_pixels)
    if picture is None:
        return b""
    size = max(14, picture.width // 24)
    font, margin = ImageFont.load_default(size), size // 2
    lines = [f"{entry['name']} {entry['score']:.0%}" for task in answer["tasks"].values() for entry in _shown(task)]
    width = max(picture.width, DRAWN_WIDTH)
    lines = _wrapped(lines, font, width - 2 * margin)
    canvas = Image.new("RGB", (width, picture.height + margin * 2 + len(lines) * size * 5 // 4), "#16181d")
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((margin, picture.height + margin + number * size * 5 // 4), line, fill="#f2f2f2", font=font)
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _describe(spec: ModelSpec, data: bytes, scores: Scores, row: int) -> dict[str, Any]:
    if not scores.ok[row]:
        return {"ok": False, "status": scores.reasons.get(row) or explain_unreadable(data, spec.image.max_pixels)}
    tasks = {task.name: _describe_task(task, scores.values[task.name][row]) for task in spec.tasks}
    labels = [tasks[task.name]["classes"][0] for task in spec.tasks if task.kind == "multiclass"]
    tags = [
        entry["name"]
        for task in spec.tasks
        if task.kind == "multilabel"
        for entry in tasks[task.name]["classes"]
        if entry["present"]
    ]
    first = labels[0] if labels else {"name": None, "score": None}
    return {
        "ok": True,
        "status": "ok",
        "label": first["name"],
        "confidence": first["score"],
        "tags": tags,
        "tasks": tasks,
    }


def _describe_task(task: Task, scores: Any) -> dict[str, Any]:
    chosen = decisions(task, scores[None])[0]
    if task.kind == "multiclass":
        order = decisions(task.model_copy(update={"top_k": len(task.classes)}), scores[None])[0]
        classes = [
            {"name": task.classes[at], "score": float(scores[at]), "top": rank < task.top_k}
            for rank, at in enumerate(order)
        ]
    else:
        classes = [
            {"name": name, "score": float(score), "threshold": threshold, "present": bool(present)}
            for name, score, threshold, present in zip(
                task.classes, scores, task.settled_thresholds(), chosen, strict=True
            )
        ]
    return {"kind": task.kind, "classes": classes}


def _shown(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in task["classes"] if entry.get("top") or entry.get("present")]


def _wrapped(words: Sequence[str], font: Any, width: int) -> list[str]:
    """Put as many words on a line as fit."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}  ·  {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
