"""A study: trials one after the other or side by side, each remembered when it ends, gone on with after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from multitask.config import Config
from multitask.errors import ConfigError, MultitaskError, RunError, install
from multitask.progress import Progress, muted_stderr
from multitask.settings import Range
from multitask.storage import locked
from multitask.tuning.space import as_word, check_search, less_is_better, suggest, with_settings
from multitask.tuning.trial import leave_with_the_parent, remember, run_trial, try_alone
from multitask.workers import Workers

STUDIES = Path("model_training/studies")

# Below the median of so many trials, from so many epochs on, a trial has no prospect.
PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 5, 2


def search(
    config: Config,
    name: str | None,
    jobs: int,
    progress: Progress,
    root: Path = STUDIES,
    workers: Workers | None = None,
) -> Path:
    """Begin a study, or go on with the one of that name, until it has as many trials as configured.

    Args:
        config: all settings; `config.search` says what to try.
        name: of the study; by default the time.
        jobs: processes that share the trials.
        progress: where to report.
        root: folder of all studies.
        workers: who does the trials instead of processes here, as many at once as `jobs`; each to its end, unpruned.

    Returns:
        Folder of the study.

    Raises:
        ConfigError: the search is not possible as configured, or optuna is not installed.
        RunError: the study of that name is one of other settings or data, or is in use.
    """
    check_search(config)
    _optuna()
    folder = root / study_name(name)
    with locked(folder, patience_s=1.0):
        study = open_study(folder, config)
        _tidy_after_a_kill(study)
        count = config.search.trials - len(finished(study))
        progress.say(f"study: {folder}, {max(count, 0)} of {config.search.trials} trials to do")
        try:
            if workers is not None:
                _work_elsewhere(study, config, count, jobs, progress, workers)
            elif count > 0:
                (_work_together if jobs > 1 else _work_alone)(folder, config, count, jobs, progress)
        except MultitaskError:
            # Without a trial there is nothing to go on with: what is wrong is outside the study.
            if not finished(study):
                shutil.rmtree(folder)
            raise
    return folder


def study_name(name: str | None) -> str:
    """Return the name of a study, by default the time.

    Raises:
        RunError: it cannot be one.
    """
    name = name or datetime.now().strftime("%Y-%m-%d-%H%M%S")
    if not re.fullmatch(r"[\w.-]+", name) or name in (".", ".."):
        raise RunError(f'"{name}" cannot be the name of a study', expected="letters, digits, - and _")
    return name


def open_study(folder: Path, config: Config | None = None) -> Any:
    """Return the Optuna study in a folder; with a configuration begin it there, or check that it is of the same.

    Raises:
        RunError: it was begun with other settings.
    """
    optuna = _optuna()
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / 'study.db'}",
        # Writers wait for each other.
        engine_kwargs={"connect_args": {"timeout": 60}},
    )
    if config is None:
        return optuna.load_study(study_name=folder.name, storage=storage)
    direction = "minimize" if less_is_better(config) else "maximize"
    study = optuna.create_study(
        study_name=folder.name, storage=storage, direction=direction, load_if_exists=True, **_strategy(config, 0)
    )
    settings = config.model_copy(update={"search": config.search.model_copy(update={"trials": 1})})
    # A digest, since an address of a database may hold a password.
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
    known = study.user_attrs.get("settings")
    if known is None:
        _begin_with_every_backbone(study, config)
        study.set_user_attr("settings", digest)
    elif known != digest:
        raise RunError(
            "this study was begun with other settings", where=str(folder), fix="Choose another --name for a new study."
        )
    return study


def finished(study: Any) -> list[Any]:
    """Return the trials that count: complete, pruned, or failed for a reason of their own."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and "reason" in trial.user_attrs)
    ]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("optuna is not installed", fix=f"Install it: {install('optuna>=5,<6')}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _strategy(config: Config, begun: int) -> dict[str, Any]:
    """Return sampler and pruner; a study that is gone on with must not draw again what it drew first."""
    optuna = _optuna()
    seed = int(np.random.SeedSequence([config.fit.seed, begun]).generate_state(1)[0])
    samplers = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    median = optuna.pruners.MedianPruner(PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS)
    pruner = median if config.search.prune else optuna.pruners.NopPruner()
    return {"sampler": samplers[config.search.sampler](), "pruner": pruner}


def _begin_with_every_backbone(study: Any, config: Config) -> None:
    """Try every backbone of the space once before the sampler may prefer some."""
    backbones = config.search.space.get("model.backbone", ())
    for backbone in () if isinstance(backbones, Range) else backbones:
        study.enqueue_trial({"model.backbone": as_word(backbone)})


def _tidy_after_a_kill(study: Any) -> None:
    """Mark what was running as failed, and let its parameters be tried again, once."""
    optuna = _optuna()
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params and "again" not in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"again": True})


def _work_alone(folder: Path, config: Config, count: int, jobs: int, progress: Progress) -> None:
    tickets = iter(range(count))
    _work(folder, config, lambda: next(tickets, None) is not None, contextlib.nullcontext(), 0, progress)


def _work_together(folder: Path, config: Config, count: int, jobs: int, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    tickets, one_at_a_time = context.Semaphore(count), context.Lock()
    workers = [
        context.Process(target=_job, args=(folder, config, tickets, one_at_a_time, number, jobs, progress), daemon=True)
        for number in range(min(jobs, count))
    ]
    try:
        for worker in workers:
            worker.start()
        alive, ended = list(workers), 0
        while alive and not ended:
            multiprocessing.connection.wait([worker.sentinel for worker in alive])
            ended = next((worker.exitcode for worker in alive if worker.exitcode), 0)
            alive = [worker for worker in alive if worker.exitcode is None]
        if ended:
            raise RunError(
                f"a process of the search ended with code {ended}",
                where=str(folder),
                fix="The same command goes on with the study; fewer --jobs need less memory.",
            )
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _work_elsewhere(study: Any, config: Config, count: int, jobs: int, progress: Progress, workers: Workers) -> None:
    """Ask for some trials at once, let others do them, and tell the study, which is in the hands of this process."""
    for name, value in _strategy(config, len(study.get_trials(deepcopy=False))).items():
        setattr(study, name, value)
    while count > 0:
        trials = [study.ask() for _ in range(min(jobs, count))]
        chosen = [with_settings(config, suggest(trial, config)) for trial in trials]
        found = workers.share(try_alone, chosen, "trials", 1)
        for trial, outcome in zip(trials, found, strict=True):
            remember(study, trial, outcome, progress)
        count -= len(trials)


def _job(
    folder: Path, config: Config, tickets: Any, one_at_a_time: Any, number: int, jobs: int, progress: Progress
) -> None:
    """Work in a process of its own, on its share of the processors."""
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    os.environ |= {"TF_NUM_INTRAOP_THREADS": share, "OMP_NUM_THREADS": share}
    try:
        _work(folder, config, lambda: tickets.acquire(block=False), one_at_a_time, number, progress)
    except MultitaskError as error:
        progress.say(f"error: {error}")
        raise SystemExit(error.exit_code) from None


def _work(
    folder: Path,
    config: Config,
    take: Callable[[], bool],
    one_at_a_time: contextlib.AbstractContextManager[Any],
    number: int,
    progress: Progress,
) -> None:
    """Do trials as long as there are some to take."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with muted_stderr():
        from multitask.tuning.trainer import Trainers, on_one_device

        on_one_device(number)
    study = open_study(folder)
    for name, value in _strategy(config, 1000 * number + len(study.get_trials(deepcopy=False))).items():
        setattr(study, name, value)
    with Trainers(progress) as trainers:
        while take():
            leave_with_the_parent()
            run_trial(study, config, trainers, one_at_a_time, progress)
