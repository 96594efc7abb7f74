"""One trial of a study: what it is worth, epoch by epoch and fold by fold, and how it ended."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

import numpy as np

from multitask.config import Config
from multitask.errors import ConfigError, RunError
from multitask.progress import Progress
from multitask.training.schedule import plan_next_epoch
from multitask.tuning.space import suggest, with_settings


def run_trial(study: Any, config: Config, trainers: Any, one_at_a_time: Any, progress: Progress) -> None:
    """Do one trial and remember how it ended."""
    import optuna

    states = optuna.trial.TrialState
    trial, started = study.ask(), time.monotonic()
    chosen = with_settings(config, suggest(trial, config))
    judge = Judge(trial, config)
    facts: dict[str, Any] = {}
    value = None
    try:
        with one_at_a_time:
            folds = trainers.of_folds(chosen, config.search.folds)
            _same_data(study, folds[0].prepared.data_hash())
        started = time.monotonic()
        best: list[dict[str, float]] = []
        facts["epochs"] = 0
        for trainer in folds:
            history = trainer.train(chosen, judge.on_epoch)
            facts["epochs"] += len(history)
            if "val_score" not in history[-1]:
                judge.hopeless, facts["reason"] = True, f"the loss is {history[-1]['loss']} in epoch {len(history)}"
            if judge.hopeless:
                break
            judge.next_fold(chosen.fit.epochs)
            best.append(history[plan_next_epoch([row["val_score"] for row in history], chosen.fit).best_epoch])
        state = states.PRUNED if judge.hopeless else states.COMPLETE
        if state == states.COMPLETE:
            facts["figures"] = {name: float(np.mean([row[name] for row in best])) for name in best[0]}
            value = judge.value(facts["figures"])
    except ConfigError as error:
        # Settings that do not go together, such as a layer that another backbone has, are no end of the search.
        if not any(trial.state == states.COMPLETE for trial in study.get_trials(deepcopy=False)):
            study.tell(trial, state=states.FAIL)
            raise
        state, facts["reason"] = states.FAIL, str(error)
    for name, fact in {**facts, "seconds": round(time.monotonic() - started, 3)}.items():
        trial.set_user_attr(name, fact)
    study.tell(trial, value, state=None if state == states.COMPLETE else state)
    shown = f"{value:.4f}" if value is not None else facts.get("reason", state.name.lower())
    settings = "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    )
    progress.say(f"trial {trial.number}: {shown}  {settings}  {facts.get('epochs', 0)} epochs")


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
        if self.prune and np.isfinite(self.value(row)):
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
