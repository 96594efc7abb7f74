"""Scores as answers for people: names, confidences, tags against their thresholds; in words or drawn on the picture."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files as package_files
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from multitask.audit import cost
from multitask.audit.inspection import EXPLAINED_PIXELS, explain_unreadable, open_picture
from multitask.prediction.decisions import decide
from multitask.prediction.protocol import Scores
from multitask.spec import ModelSpec, Task

# A drawn picture is for looking at; more pixels only take longer to send.
DRAWN_PIXELS = 1024
# Least width, so that a name and its score fit on a line below a small picture.
DRAWN_WIDTH = 320


def read_page() -> str:
    """Return the page as one document, since it may load nothing."""
    folder = package_files("multitask.serving") / "page"
    html, style, script = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return html.replace("{{ style }}", style).replace("{{ script }}", script)


def describe(spec: ModelSpec, images: Sequence[bytes], scores: Scores) -> list[dict[str, Any]]:
    """Return one answer per image, ready for JSON.

    Returns:
        Per image `ok`, `status` ("ok" or why not) and, if ok, `label` and `confidence` (of the first multiclass task),
        `tags` (names of all present tags) and `tasks`: per task its `classes`, each with `name`, `score` and, for
        multiclass the best first, whether it is one of the `top_k`; for tags `threshold` and whether `present`; or
        its `numbers`, each with `name`, `value` and `spread` (standard deviation over the training rows).
    """
    return [describe_one(spec, data, scores, row) for row, data in enumerate(images)]


def describe_one(spec: ModelSpec, data: bytes, scores: Scores, row: int, with_picture: bool = False) -> dict[str, Any]:
    """Return the answer for one image as `describe` does; `picture` holds it drawn, as JPEG, where that is possible."""
    found = _describe(spec, data, scores, row)
    picture = draw(data, found, spec.image.max_pixels) if with_picture and found["ok"] else b""
    return found | ({"picture": picture} if picture else {})


def written(version: int, names: Sequence[str], results: Sequence[dict[str, Any]], seconds: float) -> bytes:
    """Return the answers to files of these names as JSON, drawn pictures as data URLs."""
    for result in results:
        if result.get("picture"):
            result["picture"] = f"data:image/jpeg;base64,{base64.b64encode(result['picture']).decode()}"
    named = [{"file": name, **result} for name, result in zip(names, results, strict=True)]
    body = {"model_version": version, "milliseconds": round(seconds * 1000, 1), "results": named}
    return json.dumps(body).encode()


def decoding_bytes(scores: Scores, data: bytes, row: int, with_picture: bool) -> int:
    """Return the memory that `describe_one` takes to decode an image: to be drawn, or to find what is wrong with it."""
    pixels = cost.measure(data).pixels
    if scores.ok[row]:
        return cost.BYTES_PER_PIXEL * pixels * with_picture
    return cost.BYTES_PER_PIXEL * min(pixels, EXPLAINED_PIXELS) * (row not in scores.reasons)


def draw(data: bytes, answer: dict[str, Any], max_pixels: int) -> bytes:
    """Return the picture as JPEG with its answer written below; nothing for what Pillow cannot read."""
    picture = open_picture(data, DRAWN_PIXELS, max_pixels)
    if picture is None:
        return b""
    size = max(14, picture.width // 24)
    font, margin = ImageFont.load_default(size), size // 2
    lines = [line for task in answer["tasks"].values() for line in _lines(task)]
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
    tasks = {task.name: _DESCRIBERS[task.kind](task, scores.values[task.name][row]) for task in spec.tasks}
    shown = [entry for task in tasks.values() for entry in task.get("classes", ())]
    first = next((entry for entry in shown if entry.get("top")), {"name": None, "score": None})
    return {
        "ok": True,
        "status": "ok",
        "label": first["name"],
        "confidence": first["score"],
        "tags": [entry["name"] for entry in shown if entry.get("present")],
        "tasks": {task.name: {"kind": task.kind, **tasks[task.name]} for task in spec.tasks},
    }


def _describe_classes(task: Task, scores: Any) -> dict[str, Any]:
    order = decide(task.model_copy(update={"top_k": len(task.classes)}), scores[None])[0]
    return {
        "classes": [
            {"name": task.classes[at], "score": float(scores[at]), "top": rank < task.top_k}
            for rank, at in enumerate(order)
        ]
    }


def _describe_tags(task: Task, scores: Any) -> dict[str, Any]:
    entries = zip(task.classes, scores, task.settled_thresholds(), decide(task, scores[None])[0], strict=True)
    return {
        "classes": [
            {"name": name, "score": float(score), "threshold": threshold, "present": bool(present)}
            for name, score, threshold, present in entries
        ]
    }


def _describe_numbers(task: Task, scores: Any) -> dict[str, Any]:
    entries = zip(task.classes, scores, task.units(), strict=True)
    return {"numbers": [{"name": name, "value": float(value), "spread": unit} for name, value, unit in entries]}


_DESCRIBERS = {"multiclass": _describe_classes, "multilabel": _describe_tags, "regression": _describe_numbers}


def _lines(task: dict[str, Any]) -> list[str]:
    shown = [entry for entry in task.get("classes", ()) if entry.get("top") or entry.get("present")]
    numbers = [f"{entry['name']} {entry['value']:.4g}" for entry in task.get("numbers", ())]
    return [f"{entry['name']} {entry['score']:.0%}" for entry in shown] + numbers


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
