"""Images and features as tf.data: decoded in parallel, rows named in every batch, order drawn from seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.data.tables import Table
from multitask.errors import ArchiveError
from multitask.features.augmentation import augment, draw_count
from multitask.network.preprocessing import preprocess, preprocess_batch
from multitask.settings import AugmentConfig
from multitask.spec import ImageSpec, Task

Gather = Callable[[NDArray[np.int64]], NDArray[Any]]
Labels = Mapping[str, NDArray[np.float32]]

# Rows that lie side by side stay together until so many shards are mixed: far more than a batch, little for a disk.
SHARD_ROWS, SHARDS_MIXED = 256, 32
# Keeps what is drawn for pictures apart from what orders them.
_DRAWS_SEED = 1 << 20


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

    def read() -> Iterator[tuple[list[int], list[bytes]]]:
        # Files pass from Python to TensorFlow by the batch: one by one that takes longer than to decode small ones.
        ordered = list(archive.in_order(ids))
        for at in range(0, len(ordered), batch_size):
            files = [(int(row), _bytes_of(archive, ids[row])) for row in ordered[at : at + batch_size]]
            yield [row for row, data in files if data], [data for _, data in files if data]

    signature = (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None,), tf.string))
    files = tf.data.Dataset.from_generator(read, output_signature=signature).prefetch(2).unbatch()
    decoded = files.map(
        lambda row, data: (row, preprocess(data, image)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return decoded.ignore_errors().batch(batch_size).prefetch(2)


def _bytes_of(archive: Archive, name: str) -> bytes:
    """Return an image file; nothing where it cannot be read."""
    try:
        return archive[name]
    except (KeyError, ArchiveError):
        return b""


def training_batches(
    gather: Gather,
    shape: tuple[int, ...],
    dtype: Any,
    labels: Labels,
    batch_size: int,
    seed: int,
    first_epoch: int,
    parts: int = 1,
    operations: Sequence[AugmentConfig] = (),
    views: int = 1,
    places: NDArray[np.int64] | None = None,
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
        parts: how many devices share a batch. With several, each batch comes as so many elements of equal size,
            (features, labels, weights float32 (n,)). What the last batch lacks for that are rows without any label,
            and the weights let the mean over all parts be the mean over the rows of the batch.
        operations: that change the features, which are pictures; drawn from the seed and the number of the batch.
        views: of each row, of which each batch takes one; `gather` counts them as rows, those of one row side by side.
        places: (rows,) the rows in the order in which they lie on disk, to be shuffled in shards; see `shuffled`.
    """
    count = len(next(iter(labels.values())))

    rows = _in_parts(_row_batches(count, batch_size, seed, first_epoch, places), parts)
    first = first_epoch * math.ceil(count / batch_size) * parts

    def draws(number: Any, rows: int, columns: int) -> Any:
        return tf.random.stateless_uniform([rows, columns], [seed + _DRAWS_SEED, number])

    def row_of(present: Any, number: Any) -> Any:
        if views == 1:
            return present
        chosen = draws(number, tf.size(present), 1)[:, 0] * views
        return present * views + tf.cast(chosen, tf.int64)

    def change(features: Any, number: Any) -> Any:
        if not operations:
            return features
        return augment(features, operations, draws(number, tf.shape(features)[0], draw_count(operations)))

    known = {name: tf.constant(values) for name, values in labels.items()}
    return _gathered(rows, gather, shape, dtype, known, parts, first, row_of, change)


def _row_batches(count: int, batch_size: int, seed: int, first_epoch: int, places: NDArray[np.int64] | None) -> Any:
    """Batches of row numbers, epoch after epoch without end."""

    def epoch_order(epoch: Any) -> Any:
        if places is None:
            order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed=[seed, epoch])
        else:
            order = tf.numpy_function(lambda number: shuffled(places, seed, int(number)), [epoch], tf.int64)
            order = tf.ensure_shape(order, [count])
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
    return epochs.flat_map(epoch_order)


def shuffled(places: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return rows in an order that is drawn, and reads a disk in long runs: a function of the seed and the epoch.

    Shards of neighbours are shuffled, and the rows of so many shards at a time among themselves.
    """
    random = np.random.default_rng([seed, epoch])
    shards = [places[start : start + SHARD_ROWS] for start in range(0, len(places), SHARD_ROWS)]
    order = random.permutation(len(shards))
    taken = [order[start : start + SHARDS_MIXED] for start in range(0, len(order), SHARDS_MIXED)]
    return np.concatenate([random.permutation(np.concatenate([shards[at] for at in some])) for some in taken])


def inference_batches(
    gather: Gather, shape: tuple[int, ...], dtype: Any, count: int, batch_size: int, parts: int = 1
) -> Any:
    """Batches of the features of rows 0 to `count`, once and in order.

    With several parts each batch comes as so many elements of equal size; rows without meaning follow the last one.
    """
    rows = _in_parts(tf.data.Dataset.range(count).batch(batch_size), parts)
    return _gathered(rows, gather, shape, dtype, None, parts)


def distributed(batches: Any, strategy: Any) -> Any:
    """Let each device of a strategy take its part of every batch; `batches` come in as many parts."""
    if strategy.num_replicas_in_sync == 1:
        return batches
    return strategy.distribute_datasets_from_function(lambda _: batches)


def _in_parts(batches: Any, parts: int) -> Any:
    """Divide batches of row numbers into equal parts, the last batch filled up with -1."""
    if parts == 1:
        return batches

    def divide(batch: Any) -> Any:
        lacking = -tf.size(batch) % parts
        filled = tf.concat([batch, tf.fill([lacking], tf.constant(-1, tf.int64))], axis=0)
        return tf.data.Dataset.from_tensor_slices((tf.reshape(filled, [parts, -1]), tf.repeat(tf.size(batch), parts)))

    return batches.flat_map(divide)


def _gathered(
    rows: Any,
    gather: Gather,
    shape: tuple[int, ...],
    dtype: Any,
    labels: Any,
    parts: int,
    first: int = 0,
    row_of: Callable[[Any, Any], Any] = lambda present, number: present,
    change: Callable[[Any, Any], Any] = lambda features, number: features,
) -> Any:
    """Attach features, and labels where there are any, to batches of row numbers; -1 gets any features, no label.

    Batches count from `first`; their number decides which row of the features stands for a row, and what changes them.
    """

    def fetch(number: Any, batch: Any, whole: Any = None) -> Any:
        present = tf.maximum(batch, 0)
        features = tf.numpy_function(gather, [row_of(present, number)], tf.as_dtype(dtype), stateful=False)
        features = change(tf.ensure_shape(features, [None, *shape]), number)
        if labels is None:
            return features
        known = {name: tf.gather(values, present) for name, values in labels.items()}
        if parts == 1:
            return features, known
        for name, values in known.items():
            is_row = tf.reshape(batch >= 0, [-1] + [1] * (len(values.shape) - 1))
            known[name] = tf.where(is_row, values, np.nan)
        weight = parts * tf.size(batch) / whole
        return features, known, tf.fill(tf.shape(batch), tf.cast(weight, tf.float32))

    numbered = rows.enumerate(first)
    if parts > 1:
        numbered = numbered.map(lambda number, part: (number, *part))
    return numbered.map(fetch, num_parallel_calls=2, deterministic=True).prefetch(tf.data.AUTOTUNE)
