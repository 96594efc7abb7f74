"""The stages of a training: first the heads, then more of the network, cut at a deeper boundary.

What the second stage freezes, the first had frozen too. So its features are those of the weights that both began with,
they are computed once before any training, and all folds share them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.features.filling import filled_store
from multitask.features.preparation import Prepared, prepare, with_views
from multitask.network import hardware
from multitask.network.model import Network, build_network
from multitask.progress import Progress
from multitask.spec import ModelSpec
from multitask.training.checkpoints import History
from multitask.workers import Workers


@dataclass(frozen=True)
class Stage:
    """Settings of a stage, as of a training of its own, and what was prepared for it."""

    config: Config
    prepared: Prepared


@contextlib.contextmanager
def prepared_stages(
    config: Config, progress: Progress, workers: Workers, *, for_folds: bool = False
) -> Iterator[list[Stage]]:
    """Prepare every stage before the first one trains; close stores and images at the end.

    Raises:
        ConfigError: the boundary of the second stage does not fit.
    """
    with contextlib.ExitStack() as opened:
        prepared = prepare(config, progress, for_folds=for_folds, workers=workers)
        opened.enter_context(prepared.store)
        opened.enter_context(prepared.archive)
        stages = [Stage(config, prepared)]
        if config.fine_tune.freeze:
            deeper = _deeper(prepared, config, progress, workers)
            opened.enter_context(deeper.store)
            stages.append(Stage(config.last_stage(), deeper))
        yield stages


def of_fold(stages: Sequence[Stage], parts: Any) -> list[Stage]:
    """Return the stages with other splits and networks as new, on the same features; each fold begins with one seed."""
    keras.utils.set_random_seed(stages[0].config.fit.seed)
    found = []
    for stage in stages:
        with hardware.strategy().scope():
            network = build_network(stage.prepared.spec, stage.prepared.precision)
        found.append(Stage(stage.config, dataclasses.replace(stage.prepared, parts=parts, network=network)))
    return found


def best_score(history: History) -> float:
    """Return the best validation score."""
    return max(row["val_score"] for row in history)


def _deeper(prepared: Prepared, config: Config, progress: Progress, workers: Workers) -> Prepared:
    """Return what was prepared, with the network of the second stage and its features."""
    last = config.last_stage()
    network = _deeper_network(prepared, last.model.freeze)
    progress.say(f"network of stage 2: frozen: {network.spec.freeze}")
    images = dict(zip(prepared.digests.tolist(), prepared.table.ids.tolist(), strict=True))
    filled = filled_store(last, network, prepared.precision, images, prepared.archive, progress, workers)
    deeper = dataclasses.replace(
        prepared,
        spec=network.spec,
        network=network,
        store=filled.store,
        images_computed=prepared.images_computed + filled.computed,
        images_reused=prepared.images_reused + filled.reused,
    )
    return with_views(deeper, last, progress, workers) if config.augment else deeper


def _deeper_network(prepared: Prepared, boundary: str) -> Network:
    """Build the network of the second stage; refuse a boundary that does not lie before that of the first."""
    spec: ModelSpec = prepared.spec.model_copy(update={"freeze": boundary})
    try:
        with hardware.strategy().scope():
            network = build_network(spec, prepared.precision)
    except ConfigError as error:
        raise ConfigError(error.problem, where="fine_tune.freeze", fix=error.fix) from None
    first = {layer.name for layer in prepared.network.frozen.layers}
    if boundary != "none" and not {layer.name for layer in network.frozen.layers} < first:
        raise ConfigError(
            "the second stage would freeze what the first one trains",
            where="fine_tune.freeze",
            expected=f'none, or a layer before that of model.freeze ("{prepared.spec.freeze}")',
            received=boundary,
        )
    return network
