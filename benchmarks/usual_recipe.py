"""The usual transfer-learning recipe in plain Keras, for `benchmarks/training.py`: no store, no bfloat16, no tricks.

    python usual_recipe.py RUN EPOCHS      # in the folder where `multitask.train --name RUN` was run

Writes recipe.json: seconds until the first epoch, seconds of two epochs, and figures on the validation split.
"""

from __future__ import annotations

import json
import sys
import time

STARTED = time.monotonic()

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from multitask.data.archives import open_archive
from multitask.evaluation.tasks import evaluate_tasks
from multitask.network.model import load_network
from multitask.runs import open_run

RUN, EPOCHS = sys.argv[1], int(sys.argv[2])


def main() -> None:
    """Train and measure."""
    run = open_run(RUN)
    tasks, size = run.spec.tasks, (run.spec.image.height, run.spec.image.width)
    frame = pd.read_parquet(run.folder / "splits.parquet")
    archive = open_archive(*run.config.data.images)

    def dataset(part: str, shuffle: bool) -> tf.data.Dataset:
        rows = frame[frame["split"] == part]
        files = [archive[name] for name in rows["id"]]
        labels = {task.name: _labels(rows, task) for task in tasks}
        data = tf.data.Dataset.from_tensor_slices((files, labels))
        data = data.shuffle(len(rows), seed=0) if shuffle else data
        decode = lambda file, label: (  # noqa: E731
            tf.image.resize(tf.io.decode_image(file, channels=3, expand_animations=False), size),
            label,
        )
        return data.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(run.config.fit.batch_size).prefetch(2)

    training, validation = dataset("train", shuffle=True), dataset("validation", shuffle=False)
    base, model = _build(run, size)
    _compile(model, run)
    start_seconds = time.monotonic() - STARTED
    epoch_seconds = []
    for _ in range(2):
        began = time.monotonic()
        model.fit(training, validation_data=validation, epochs=1, verbose=2)
        epoch_seconds.append(time.monotonic() - began)

    heads = _heads(base.output_shape[1:], run)
    _compile(heads, run)
    features = {
        name: base.predict(data, verbose=0)
        for name, data in (("train", dataset("train", False)), ("validation", validation))
    }
    targets = {part: {task.name: _labels(frame[frame["split"] == part], task) for task in tasks} for part in features}
    heads.fit(features["train"], targets["train"], batch_size=run.config.fit.batch_size, epochs=EPOCHS, verbose=0)
    ours = load_network(run.folder / "model.keras", run.spec)
    figures = {}
    for name, scores in (
        ("recipe", heads.predict(features["validation"], verbose=0)),
        ("ours", ours.whole.predict(validation.map(lambda image, _: tf.cast(tf.round(image), tf.uint8)), verbose=0)),
    ):
        # Thresholds were chosen for our scores, so only figures that need none are compared.
        found = evaluate_tasks(run.spec, targets["validation"], scores, targets["train"])
        figures[name] = {
            f"{task} {metric}": (value.value, value.low, value.high)
            for task, metrics in found.metrics.items()
            for metric, value in metrics.items()
            if metric.startswith(("accuracy", "top_", "balanced", "mean_average"))
            and not (task != "category" and metric == "accuracy")
        }
    with open("recipe.json", "w") as file:
        json.dump({"start_seconds": start_seconds, "epoch_seconds": epoch_seconds, **figures}, file)


def _labels(rows: pd.DataFrame, task) -> np.ndarray:
    columns = list(task.columns) if task.kind == "multilabel" else task.name
    return rows[columns].to_numpy(np.float32)


def _heads(shape: tuple[int, ...], run) -> keras.Model:
    features = keras.Input(shape)
    vector = keras.layers.Dropout(run.spec.dropout)(keras.layers.Flatten()(features))
    activation = {"multiclass": "softmax", "multilabel": "sigmoid"}
    outputs = {
        task.name: keras.layers.Dense(len(task.classes), activation=activation[task.kind], name=task.name)(vector)
        for task in run.spec.tasks
    }
    return keras.Model(features, outputs)


def _build(run, size: tuple[int, int]) -> tuple[keras.Model, keras.Model]:
    """Build frozen VGG16 with the backbone weights of the run, and the heads."""
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(*size, 3))
    vgg.set_weights(load_network(run.folder / "model.keras", run.spec).frozen.get_weights())
    vgg.trainable = False
    image = keras.Input((*size, 3))
    base = keras.Model(image, vgg(keras.applications.vgg16.preprocess_input(image), training=False))
    return base, keras.Model(image, _heads(base.output_shape[1:], run)(base(image)))


def _compile(model: keras.Model, run) -> None:
    loss = {"multiclass": "sparse_categorical_crossentropy", "multilabel": "binary_crossentropy"}
    model.compile(
        keras.optimizers.Adam(run.config.fit.learning_rate), loss={t.name: loss[t.kind] for t in run.spec.tasks}
    )


if __name__ == "__main__":
    main()
