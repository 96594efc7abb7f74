"""What makes steps of gradients."""

from __future__ import annotations

from typing import Any

import keras

from multitask.settings import FitConfig

# Longest gradient of SGD, whose steps are as long as gradients are, unlike Adam's: the first would throw a network
# off. https://arxiv.org/abs/1211.5063
_CLIP = 1.0
# Of AdamW, where none is named.
_ADAMW_DECAY = 1e-4


def make_optimizer(precision: str, fit: FitConfig) -> Any:
    """Return the optimizer; in float16, whose least number is 6e-8, with a loss scaled so that gradients do not vanish.

    https://arxiv.org/abs/1710.03740, section 3.2. Weight decay is decoupled, https://arxiv.org/abs/1711.05101, and
    leaves biases and normalisation alone.
    """
    decay = fit.weight_decay if fit.weight_decay is not None else _ADAMW_DECAY * (fit.optimizer == "adamw")
    settings: dict[str, Any] = {"learning_rate": fit.learning_rate, "weight_decay": decay or None}
    if fit.optimizer == "sgd":
        nesterov = fit.momentum > 0
        optimizer = keras.optimizers.SGD(**settings, momentum=fit.momentum, nesterov=nesterov, global_clipnorm=_CLIP)
    else:
        optimizer = keras.optimizers.Adam(**settings)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer
