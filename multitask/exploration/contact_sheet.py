"""A sheet of pictures that shows what augmentation does to some photos: each operation alone, then all together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.config import Config
from multitask.data.frames import read_frame
from multitask.data.sources import open_images
from multitask.data.tables import as_table
from multitask.errors import ConfigError, TableError
from multitask.features.augmentation import augment, draw_count
from multitask.features.dataset import read_images
from multitask.settings import AugmentConfig
from multitask.spec import ImageSpec
from multitask.style import STYLE, save_plots

# Rows of the sheet, and columns of all operations together.
PHOTOS, TOGETHER = 5, 3
# Of rows that are tried until there are enough photos that can be read.
_TRIED = 50

_EXAMPLE = '[[augment]] with op = "rotate", and others: see model_training/README.md'


def write_contact_sheet(config: Config, out: Path) -> Path:
    """Write `augment.png`; return where it is.

    Raises:
        ConfigError: nothing is configured.
        TableError: no photo can be read.
    """
    if not config.augment:
        raise ConfigError("there is nothing to show", where="augment", expected=_EXAMPLE, received="no [[augment]]")
    height, width = config.model.image_size
    image = ImageSpec(height=height, width=width, resize=config.model.resize)
    photos = _photos(config, image)
    columns = [[operation] for operation in config.augment] + [list(config.augment)] * TOGETHER
    titles = [f"{operation.op}\n{_amount(operation)}" for operation in config.augment]
    titles += [f"all, {number}" for number in range(1, TOGETHER + 1)]
    changed = [_changed(photos, column, number) for number, column in enumerate(columns)]
    with rc_context(STYLE):
        figure = _draw([photos, *changed], ["the photo", *titles])
    return save_plots({"augment": figure}, out)["augment"]


def _photos(config: Config, image: ImageSpec) -> NDArray[np.uint8]:
    """Return some photos of the label table, uint8 (photos, height, width, 3)."""
    frame = read_frame(config.data.labels, config.data.query)
    ids = as_table(frame, config.data.id_column, (), config.data.labels).ids
    # Spread over the table, which may be sorted.
    tried = ids[np.unique(np.linspace(0, len(ids) - 1, _TRIED).astype(int))] if len(ids) else ids
    with open_images(config.data, frame) as archive:
        batches = [np.asarray(batch) for _, batch in read_images(list(tried), archive, image, len(tried))]
    found = np.concatenate(batches) if batches else np.zeros((0, image.height, image.width, 3), np.uint8)
    if not len(found):
        raise TableError("no photo of these rows can be read", where=config.data.labels)
    return found[np.unique(np.linspace(0, len(found) - 1, PHOTOS).astype(int))]


def _changed(photos: NDArray[np.uint8], operations: Sequence[AugmentConfig], number: int) -> NDArray[np.uint8]:
    """Change every photo; an operation that is shown alone is always on."""
    alone = len(operations) == 1
    shown = [operation.model_copy(update={"probability": 1.0}) if alone else operation for operation in operations]
    draws = tf.random.stateless_uniform([len(photos), draw_count(shown)], [number, len(shown)])
    return np.asarray(augment(photos, shown, draws))


def _amount(operation: AugmentConfig) -> str:
    strength = f"{operation.amount:g}, " if operation.has_strength else ""
    return f"{strength}{operation.probability:.0%}"


def _draw(columns: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> Figure:
    photos, height, width = columns[0].shape[:3]
    figure = Figure(figsize=(1.35 * len(columns), 0.6 + 1.35 * photos * height / width), layout="constrained")
    for at, (column, title) in enumerate(zip(columns, titles, strict=True)):
        for row, photo in enumerate(column):
            axes = figure.add_subplot(photos, len(columns), 1 + at + row * len(columns))
            axes.imshow(photo, interpolation="nearest" if height < 100 else "antialiased")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=9)
    return figure
