"""Images and features as tf.data: decoded in parallel, rows named in every batch, order drawn from seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.data.tables import Table
from multitask.errors import ArchiveError
from multitask.network.preprocessing import preprocess, preprocess_batch
from multitask.spec import ImageSpec, Task

Gather = Callable[[NDArray[np.int64]], NDArray[Any]]
Labels = Mapping[str, NDArray[np.float32]]


def make_dataset(
    table: Table,
    archive: Archive,
    tasks: Iterable[Task],
    image: ImageSpec = ImageSpec(),  # noqa: B008
    batch_size: int = 32,
    shuffle_seed: int | None = None,
    with_ids: bool = False,
) -> Any:
    """Return a table and its images as tf.data, ready for Keras' `fit`; needs nothing else of this package.

    Args:
        table: from `read_table`, or `Table.take` of one; its rows should have passed `audit_rows`.
        archive: from `open_archive`.
        tasks: whose labels to give.
        image: size, way of resizing and pixel limit.
        batch_size: rows per batch; the last one may be smaller.
        shuffle_seed: None keeps the order of the table; a number draws another order for every pass.
        with_ids: begin every element with the ids, string (batch,).

    Returns:
        Dataset of (images uint8 (batch, height, width, 3) RGB, {task: labels}): float32 (batch,) class numbers or
        (batch, tags) 0 and 1, NaN for a missing label.

    Raises:
        tf.errors.InvalidArgumentError: while it is read, for a row whose image cannot be read; the id is named.
    """
    ids = np.array([name.encode() for name in table.ids], object)
    labels = {task.name: tf.constant(table.labels[task.name]) for task in tasks}
    rows = tf.data.Dataset.range(len(table))
    if shuffle_seed is not None:
        rows = rows.shuffle(len(table), seed=shuffle_seed, reshuffle_each_iteration=True)

    def read(row: Any) -> bytes:
        return archive.get(str(table.ids[row]), b"")

    def load(row: Any) -> Any:
        data = tf.ensure_shape(tf.numpy_function(read, [row], tf.string, stateful=False), [])
        return row, data

    def decode(batch: Any, files: Any) -> Any:
        images, ok = preprocess_batch(files, image)
        names = tf.gather(tf.constant(ids), batch)
        readable = tf.debugging.Assert(tf.reduce_all(ok), ["unreadable images:", tf.boolean_mask(names, ~ok)])
        with tf.control_dependencies([readable] if readable is not None else []):
            images = tf.identity(images)
        found = images, {name: tf.gather(values, batch) for name, values in labels.items()}
        return (names, *found) if with_ids else found

    loaded = rows.map(load, num_parallel_calls=2, deterministic=True).batch(batch_size)
    return loaded.map(decode, num_parallel_calls=2, deterministic=True).prefetch(tf.data.AUTOTUNE)


def read_images(ids: Sequence[str], archive: Archive, image: ImageSpec, batch_size: int) -> Any:
    """Read and decode images in the order in which they lie in the archive; unreadable ones are left out.

    Returns:
        Dataset of (rows int64 (batch,), images uint8 (batch, height, width, 3)); a row is a position in `ids`.
    """

    def read() -> Iterator[tuple[int, bytes]]:
        for row in archive.in_order(ids):
            try:
                yield int(row), archive[ids[row]]
            except (KeyError, ArchiveError):
                continue

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.string))
    files = tf.data.Dataset.from_generator(read, output_signature=signature).prefetch(2 * batch_size)
    decoded = files.map(
        lambda row, data: (row, preprocess(data, image)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return decoded.ignore_errors().batch(batch_size).prefetch(2)


def training_batches(
    gather: Gather, shape: tuple[int, ...], dtype: Any, labels: Labels, batch_size: int, seed: int, first_epoch: int
) -> Any:
    """Endless shuffled batches of (features, {task: labels}), epoch after epoch from `first_epoch` on.

    The order of an epoch is drawn from the seed and the number of the epoch alone, so a resumed training sees the rows
    that an uninterrupted one would have seen.

    Args:
        gather: returns the features (n, *shape) of rows; rows count as in `labels`.
        shape, dtype: of the features of one row.
        labels: per task (rows,) or (rows, tags) float32, NaN for a missing label.
        batch_size: rows per batch; the last batch of an epoch is smaller.
        seed: of the shuffling.
        first_epoch: the first epoch to yield.
    """
    count = len(next(iter(labels.values())))

    def epoch_order(epoch: Any) -> Any:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed=[seed, epoch])
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
    rows = epochs.flat_map(epoch_order)
    return _gathered(rows, gather, shape, dtype, {name: tf.constant(values) for name, values in labels.items()})


def inference_batches(gather: Gather, shape: tuple[int, ...], dtype: Any, count: int, batch_size: int) -> Any:
    """Batches of the features of rows 0 to `count`, once and in order."""
    rows = tf.data.Dataset.range(count).batch(batch_size)
    return _gathered(rows, gather, shape, dtype, None)


def _gathered(rows: Any, gather: Gather, shape: tuple[int, ...], dtype: Any, labels: Any) -> Any:
    """Attach features, and labels where there are any, to batches of row numbers."""

    def fetch(batch: Any) -> Any:
        features = tf.numpy_function(gather, [batch], tf.as_dtype(dtype), stateful=False)
        features = tf.ensure_shape(features, [None, *shape])
        if labels is None:
            return features
        return features, {name: tf.gather(values, batch) for name, values in labels.items()}

    return rows.map(fetch, num_parallel_calls=2, deterministic=True).prefetch(tf.data.AUTOTUNE)
