"""Look at every row and image once before training: what is missing, broken, repeated or contradictory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multitask.archives import Archive
from multitask.errors import ArchiveError
from multitask.spec import Task
from multitask.tables import Table

# What preprocessing can decode, as Pillow names it; MPO is a JPEG with further pictures behind it.
READABLE_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")


@dataclass(frozen=True)
class Audit:
    """What is known of each row of a label table.

    Args:
        digests: (rows,) SHA-256 of the image file in hexadecimal; "" where there is no image.
        reasons: (rows,) why the row cannot be used; "" where it can.
    """

    digests: NDArray[np.object_]
    reasons: NDArray[np.object_]


def audit_rows(
    table: Table, tasks: Iterable[Task], archive: Archive, advance: Callable[[int], None] = lambda done: None
) -> Audit:
    """Read every image file once and compare the labels of rows that show the same picture."""
    tasks = tuple(tasks)
    digests = np.full(len(table), "", object)
    reasons = np.full(len(table), "", object)
    known: dict[str, tuple[str, str]] = {}
    wanted = list(dict.fromkeys(table.ids))
    # One after the other, in archive order: a compressed tar can only be read forward, and a disk likes it too.
    for position in archive.in_order(wanted):
        known[wanted[position]] = _digest(wanted[position], archive)
        advance(1)
    for row, name in enumerate(table.ids):
        digests[row], reasons[row] = known[name]
    unlabelled = np.logical_and.reduce([np.isnan(_by_row(table.labels[task.name])).all(axis=1) for task in tasks])
    reasons[unlabelled & (reasons == "")] = "no label for any task"
    for row, reason in _contradictions(table, tasks, digests).items():
        reasons[row] = reasons[row] or reason
    return Audit(digests, reasons)


def explain_unreadable(data: bytes, max_pixels: int) -> str:
    """Say why preprocessing could not decode these bytes."""
    if not data:
        return "empty file"
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, (width, height) = image.format or "", image.size
            if width * height > max_pixels:
                return f"too large: {width}x{height} is more than {max_pixels / 1e6:g} Mpx"
            if kind not in READABLE_FORMATS:
                return f"{kind} is not supported; convert it to JPEG or PNG"
            if kind == "WEBP" and getattr(image, "is_animated", False):
                return "animated WebP is not supported; convert it to JPEG or PNG"
            image.load()
    except Image.DecompressionBombError as error:
        return f"too large: {error}"
    except Image.UnidentifiedImageError:
        return "not an image"
    except Exception as error:
        return f"damaged image: {error}"
    return f"damaged {kind}"


def read_image(archive: Archive, name: str) -> tuple[bytes, str]:
    """Return the bytes of an image file and "", or no bytes and the reason why there are none."""
    if not name:
        return b"", "no id"
    if name in archive.ambiguous:
        return b"", f"several files bear this id: {', '.join(archive.ambiguous[name])}"
    try:
        return archive[name], ""
    except KeyError:
        return b"", "no image with this id"
    except ArchiveError as error:
        return b"", str(error)


def _digest(name: str, archive: Archive) -> tuple[str, str]:
    """Return the digest of an image file and why there is none."""
    data, reason = read_image(archive, name)
    return "" if reason else hashlib.sha256(data).hexdigest(), reason


def _contradictions(table: Table, tasks: Iterable[Task], digests: NDArray[np.object_]) -> dict[int, str]:
    """Find rows of one picture whose labels differ; a missing label contradicts nothing."""
    rows_of: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            rows_of.setdefault(digest, []).append(row)
    found = {}
    for rows in (rows for rows in rows_of.values() if len(rows) > 1):
        for task in tasks:
            labels = _by_row(table.labels[task.name])[rows]
            lowest, highest = np.nanmin(labels, axis=0, initial=np.inf), np.nanmax(labels, axis=0, initial=-np.inf)
            if (highest > lowest).any():
                others = ", ".join(f"row {row} ({table.ids[row]})" for row in rows)
                found.update(dict.fromkeys(rows, f'contradictory labels of "{task.name}" for one picture: {others}'))
    return found


def _by_row(labels: NDArray[np.float32]) -> NDArray[Any]:
    """Return labels as (rows, columns)."""
    return labels.reshape(len(labels), -1)
