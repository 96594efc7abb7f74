"""One trial of a study: what it is worth, epoch by epoch and fold by fold, and how it ended."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from multitask.config import Config
from multitask.errors import ConfigError, RunError
from multitask.progress import Progress, Quiet
from multitask.training.schedule import plan_next_epoch
from multitask.tuning.space import suggest, with_settings


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        value: of the objective; None where it has none.
        state: COMPLETE, PRUNED or FAIL.
        facts: epochs, seconds, figures of the best epoch, reason, digest of the data.
        error: settings that do not go together.
    """

    value: float | None
    state: str
    facts: dict[str, Any]
    error: ConfigError | None = None


def run_trial(study: Any, config: Config, trainers: Any, one_at_a_time: Any, progress: Progress) -> None:
    """Do one trial and remember how it ended."""
    trial = study.ask()
    chosen = with_settings(config, suggest(trial, config))
    remember(study, trial, _outcome(chosen, trainers, Judge(trial, chosen), one_at_a_time), progress)


def try_alone(configs: list[Config]) -> Outcome:
    """Do a trial in a process that has no study; each to its end."""
    [config] = configs
    return _outcome(config, _trainers(), Judge(None, config), contextlib.nullcontext())


@functools.cache
def _trainers() -> Any:
    from multitask.tuning.trainer import Trainers

    return Trainers(Quiet())


def _outcome(chosen: Config, trainers: Any, judge: Judge, one_at_a_time: Any) -> Outcome:
    started = time.monotonic()
    facts: dict[str, Any] = {"epochs": 0, "seconds": 0.0}
    best: list[dict[str, float]] = []
    try:
        with one_at_a_time:
            folds = trainers.of_folds(chosen, chosen.search.folds)
        facts["data"] = folds[0].prepared.data_hash()
        started = time.monotonic()
        for trainer in folds:
            history = trainer.train(chosen, judge.on_epoch)
            facts["epochs"] += len(history)
            if "val_score" not in history[-1]:
                judge.hopeless, facts["reason"] = True, f"the loss is {history[-1]['loss']} in epoch {len(history)}"
            if judge.hopeless:
                break
            judge.next_fold(chosen.fit.epochs)
            best.append(history[plan_next_epoch([row["val_score"] for row in history], chosen.fit).best_epoch])
    except ConfigError as error:
        return Outcome(None, "FAIL", {**facts, "reason": str(error)}, error)
    facts["seconds"] = round(time.monotonic() - started, 3)
    if judge.hopeless:
        return Outcome(None, "PRUNED", facts)
    facts["figures"] = {name: float(np.mean([row[name] for row in best])) for name in best[0]}
    return Outcome(judge.value(facts["figures"]), "COMPLETE", facts)


def remember(study: Any, trial: Any, outcome: Outcome, progress: Progress) -> None:
    """Tell the study how a trial ended.

    Raises:
        ConfigError: its settings do not go together, and no trial before it was better off.
        RunError: it had other data than the study.
    """
    import optuna

    states, facts = optuna.trial.TrialState, dict(outcome.facts)
    if outcome.error and not any(other.state == states.COMPLETE for other in study.get_trials(deepcopy=False)):
        study.tell(trial, state=states.FAIL)
        raise outcome.error
    if "data" in facts:
        _same_data(study, facts.pop("data"))
    for name, fact in facts.items():
        trial.set_user_attr(name, fact)
    # Settings that do not go together, such as a layer that another backbone has, are no end of the search.
    study.tell(trial, outcome.value, state=None if outcome.state == "COMPLETE" else states[outcome.state])
    shown = f"{outcome.value:.4f}" if outcome.value is not None else facts.get("reason", outcome.state.lower())
    settings = "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    )
    progress.say(f"trial {trial.number}: {shown}  {settings}  {facts['epochs']} epochs")


class Judge:
    """What a trial is worth, epoch by epoch."""

    def __init__(self, trial: Any, config: Config) -> None:
        self.trial, self.figures, self.prune = trial, config.search.objective, config.search.prune
        self.hopeless, self._before = False, 0

    def next_fold(self, epochs: int) -> None:
        """Count the epochs of the next fold after so many of this one."""
        self._before += epochs

    def value(self, row: dict[str, float]) -> float:
        """Return the objective of a row of figures."""
        return float(np.mean([row[figure] for figure in self.figures]))

    def on_epoch(self, epoch: int, row: dict[str, float]) -> bool:
        """Report an epoch; return whether to go on."""
        leave_with_the_parent()
        if self.prune and self.trial is not None and np.isfinite(self.value(row)):
            self.trial.report(self.value(row), self._before + epoch)
            self.hopeless = self.trial.should_prune()
        return not self.hopeless


def leave_with_the_parent() -> None:
    """End this process if that which started it was killed: the study is somebody else's from then on."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _same_data(study: Any, digest: str) -> None:
    known = study.user_attrs.get("data")
    if known is None:
        study.set_user_attr("data", digest)
    elif known != digest:
        raise RunError(
            "labels, images or splits are not those this study began with",
            where=study.study_name,
            fix="Choose another --name for a new study.",
        )
