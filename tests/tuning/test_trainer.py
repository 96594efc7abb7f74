"""A trial computes what a training computes, again and again on one compiled network."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config
from multitask.progress import Quiet
from multitask.settings import AugmentConfig
from multitask.spec import TaskConfig

pytestmark = pytest.mark.tensor


def _variants(make_config: Callable[..., Config]) -> list[Config]:
    tasks = {**Config().tasks, "size": TaskConfig(kind="regression", columns=("width",), loss_weight=0.5)}
    return [
        make_config(tasks=tasks, dropout=0.1, batch_size=16, learning_rate=3e-3),
        make_config(tasks=tasks | {"size": tasks["size"].model_copy(update={"loss_weight": 2.0})}, dropout=0.6),
    ]


def test_trials_one_after_the_other_have_the_history_of_trainings(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    from multitask.training.fitting import fit
    from multitask.tuning.trainer import Trainers

    variants = _variants(make_config)
    with Trainers(Quiet()) as trainers:
        found = [trainers.trainer(config).train(config) for config in (*variants, variants[0])]
    assert found[2] == found[0]
    for number, config in enumerate(variants):
        run = fit(config, f"plain{number}", root=tmp_path)
        history = pd.read_csv(run.folder / "history.csv")
        ours = pd.DataFrame(found[number])
        assert len(ours) == len(history)
        # Keras gives the loss of a task as a mean over batches, whatever their size.
        for name in ours.drop(columns=[f"{task}_loss" for task in config.tasks]):
            np.testing.assert_allclose(ours[name], history[name], rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "schedule": "milestones", "milestones": (2,), "task_balance": "learned"},
        {"augment": (AugmentConfig(op="flip_horizontal"), AugmentConfig(op="shift")), "views": 2},
        # Where all is trained, the last digits of bfloat16 grow from step to step.
        pytest.param({"freeze": "none", "precision": "float32"}, marks=pytest.mark.slow),
        {"dropout": 0.0},
        {"balance": "downsample"},
    ],
)
def test_whatever_is_frozen_dropped_or_balanced(
    settings: dict[str, object], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    from multitask.training.fitting import fit
    from multitask.tuning.trainer import Trainers

    config = make_config(epochs=2, **settings)
    with Trainers(Quiet()) as trainers:
        found = trainers.trainer(config).train(config)
    history = pd.read_csv(fit(config, "plain", root=tmp_path).folder / "history.csv")
    np.testing.assert_allclose([row["val_loss"] for row in found], history["val_loss"], rtol=5e-3)


def test_a_trial_after_the_first_waits_for_no_tracing(make_config: Callable[..., Config]) -> None:
    from multitask.tuning.trainer import Trainers

    config = make_config()
    with Trainers(Quiet()) as trainers:
        seconds = []
        for learning_rate, dropout, batch_size in ((1e-3, 0.2, 32), (1e-2, 0.4, 16), (1e-4, 0.5, 64)):
            trial = make_config(learning_rate=learning_rate, dropout=dropout, batch_size=batch_size)
            started = time.monotonic()
            trainers.trainer(config).train(trial)
            seconds.append(time.monotonic() - started)
    assert max(seconds[1:]) < seconds[0] / 2
