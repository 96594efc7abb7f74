"""What the machine offers: accelerators, and the fastest arithmetic that the network can use on them."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from multitask.errors import ConfigError
from multitask.network import processor

PRECISIONS = ("float32", "bfloat16", "float16")


def fastest_precision() -> str:
    """Return bfloat16, float16 or float32, whichever this machine computes fastest.

    GPUs from compute capability 8.0 on have bfloat16 units, those from 7.0 on float16 units,
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions. On a CPU oneDNN uses bfloat16 with
    AMX or AVX512-BF16; on others it emulates it, slower than float32, or refuses.

    The environment variable MULTITASK_PRECISION, one of the three, is taken for the answer: tests are run under each.

    Raises:
        ConfigError: it is something else.
    """
    wanted = os.environ.get("MULTITASK_PRECISION", "")
    if wanted:
        if wanted not in PRECISIONS:
            raise ConfigError(
                "unknown precision", where="MULTITASK_PRECISION", expected=", ".join(PRECISIONS), received=wanted
            )
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"
    return "bfloat16" if processor.has_bfloat16_units() else "float32"


@functools.cache
def strategy() -> Any:
    """Return a MirroredStrategy over several GPUs, else the strategy in force, which is normally that of one device."""
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def devices() -> Sequence[str]:
    """Return the names of several GPUs; of one device, or none, the one that means wherever TensorFlow likes."""
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    return gpus if len(gpus) > 1 else [""]


def on_each_device(model: Any, call: Callable[[Any, Any], Any], signature: Any = None) -> list[Callable[[Any], Any]]:
    """Return a compiled function of a batch for each device, with weights of its own.

    Args:
        model: to be copied to each device.
        call: of the copy and of a batch; what it does beside calling the copy is not bound to the device.
        signature: of the batch; None compiles for any.
    """

    def compiled(device: str) -> Callable[[Any], Any]:
        with tf.device(device):
            own = keras.models.clone_model(model) if device else model
        if device:
            own.set_weights(model.get_weights())

        def placed(*batch: Any, **options: Any) -> Any:
            with tf.device(device):
                return own(*batch, **options)

        return tf.function(lambda batch: call(placed, batch), input_signature=signature, reduce_retracing=True)

    return [compiled(device) for device in devices()]


def describe() -> dict[str, str]:
    """Return the machine in words, for the manifest of a run."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return {
        "machine": platform.machine(),
        "processor": processor.name(),
        "gpus": ", ".join(names) or "none",
        "python": platform.python_version(),
        "system": platform.system(),
    }
