"""The serving SavedModel: image files in, scores and decoded answers out; any number of rows, no Python in the graph.

    serving_default  image_bytes string (batch,)                       a whole image file each
    from_pixels      pixels float32 (batch, height, width, 3)          RGB, 0..255
      -> per task    <task> float32 (batch, classes)                   scores, 0..1
         multiclass  <task>_top string, <task>_top_scores float32 (batch, top_k)
         multilabel  <task>_present int64 (batch, tags)                1 from the tag's threshold on
         regression  nothing more: <task> is the number, in its unit
         image_ok    bool (batch,)                                     of a row that is not ok all answers are 0 and ""
    spec             rows string (batch,) -> spec string (batch,)      the spec as JSON, so that an address is enough

`assets.extra/` holds `spec.json`, `labels.json` and `tf_serving_warmup_requests`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from multitask.network.model import Network
from multitask.prediction.trained import score_bytes, score_pixels
from multitask.spec import Kind, ModelSpec, Task

# Batches a server is warmed up with: one photo, and the most that serving/batching.config lets into one batch.
WARM_UP_ROWS = (1, 32)

Tensor = Any


def write_saved_model(network: Network, directory: Path, photo: bytes) -> None:
    """Write the SavedModel of a network.

    Nothing is given to `ExportArchive.track`, which would store every weight twice (keras-team/keras#23553).

    Args:
        network: with float64 heads, which keep their precision when a server rewrites the graph to bfloat16.
        directory: to write.
        photo: an image file for the warm-up requests.
    """
    spec = network.spec
    shape = (spec.image.height, spec.image.width, 3)
    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", _of_bytes(network), [tf.TensorSpec([None], tf.string, name="image_bytes")])
    archive.add_endpoint("from_pixels", _of_pixels(network), [tf.TensorSpec([None, *shape], tf.float32, name="pixels")])
    archive.add_endpoint("spec", _of_spec(spec), [tf.TensorSpec([None], tf.string, name="rows")])
    archive.write_out(str(directory), verbose=False)
    extra = directory / "assets.extra"
    extra.mkdir()
    spec.save(extra / "spec.json")
    labels = {task.name: list(task.classes) for task in spec.tasks}
    (extra / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
    _write_warm_up(extra / "tf_serving_warmup_requests", photo, shape)


def _of_bytes(network: Network) -> Callable[[Tensor], dict[str, Tensor]]:
    def serving_default(image_bytes: Tensor) -> dict[str, Tensor]:
        return _answers(network.spec, score_bytes(network, tf.ensure_shape(image_bytes, [None])))

    return serving_default


def _of_pixels(network: Network) -> Callable[[Tensor], dict[str, Tensor]]:
    image = network.spec.image

    def from_pixels(pixels: Tensor) -> dict[str, Tensor]:
        # A server never compares a request with the signature, and a wrong rank would end its process in oneDNN.
        pixels = tf.ensure_shape(pixels, [None, image.height, image.width, 3])
        # Comparisons with NaN are false, so NaN is refused as well.
        ok = tf.reduce_all((pixels >= 0.0) & (pixels <= 255.0), axis=[1, 2, 3])
        images = tf.cast(tf.round(tf.where(ok[:, None, None, None], pixels, 0.0)), tf.uint8)
        return _answers(network.spec, score_pixels(network, images, ok))

    return from_pixels


def _of_spec(spec: ModelSpec) -> Callable[[Tensor], dict[str, Tensor]]:
    def describe(rows: Tensor) -> dict[str, Tensor]:
        return {"spec": tf.fill(tf.shape(tf.ensure_shape(rows, [None])), spec.model_dump_json())}

    return describe


def _answers(spec: ModelSpec, scored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the decoded answers of every task to scores per task and `image_ok`."""
    found = dict(scored)
    for task in spec.tasks:
        decoded = _DECODERS[task.kind](task, scored[task.name], scored["image_ok"])
        found |= zip(task.answer_outputs, decoded, strict=True)
    return found


def _decode_top(task: Task, scores: Tensor, ok: Tensor) -> list[Tensor]:
    best = tf.math.top_k(scores, k=task.top_k)
    names = tf.gather(tf.constant(task.classes), best.indices)
    return [tf.where(ok[:, None], names, ""), best.values]


def _decode_present(task: Task, scores: Tensor, ok: Tensor) -> list[Tensor]:
    present = (scores >= tf.constant(task.settled_thresholds(), tf.float32)) & ok[:, None]
    return [tf.cast(present, tf.int64)]


# What the graph answers beside the scores, in the order of `Task.answer_outputs`; a number is its own answer.
_DECODERS: Mapping[Kind, Callable[[Task, Tensor, Tensor], list[Tensor]]] = {
    "multiclass": _decode_top,
    "multilabel": _decode_present,
    "regression": lambda task, scores, ok: [],
}


def _write_warm_up(path: Path, photo: bytes, shape: Sequence[int]) -> None:
    """Write requests that a server answers to itself before it answers others: every signature, every batch size."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows in WARM_UP_ROWS:
            for signature, name, value in (
                ("serving_default", "image_bytes", tf.make_tensor_proto([photo] * rows)),
                ("from_pixels", "pixels", tf.make_tensor_proto(0.0, shape=[rows, *shape])),
                ("spec", "rows", tf.make_tensor_proto([b""] * rows)),
            ):
                writer.write(_prediction_log(signature, name, value.SerializeToString()))


def _prediction_log(signature: str, name: str, tensor: bytes) -> bytes:
    """Serialize PredictionLog{predict_log{request{model_spec, inputs}}} of tensorflow_serving/apis.

    Its Python package is not needed for that: every field involved is a length and bytes.
    """
    model_spec = _field(1, b"multitask") + _field(3, signature.encode())
    request = _field(1, model_spec) + _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    size, digits = len(value), bytearray([number << 3 | 2])
    while size > 0x7F:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*digits, size]) + value
