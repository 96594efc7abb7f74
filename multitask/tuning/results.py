"""What a study leaves behind: its trials as a table, the best one as a recipe, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from multitask.config import Config
from multitask.errors import RunError, command
from multitask.settings import SearchConfig
from multitask.storage import replacing
from multitask.style import save_plots
from multitask.tuning.plots import plot_search, plot_space
from multitask.tuning.space import chosen_by, judged_by, less_is_better
from multitask.tuning.study import finished, open_study

# With fewer complete trials, what seems important is chance.
ENOUGH = 10
# Of a trial, beside its parameters.
COLUMNS = ("number", "state", "value", "epochs", "seconds", "reason")


def write_study(folder: Path, config: Config) -> pd.DataFrame:
    """Write `trials.parquet`, `best.toml` and the plots; return the finished trials.

    Raises:
        RunError: no trial was completed.
    """
    study = open_study(folder)
    trials = trials_of(study, config)
    with replacing(folder / "trials.parquet") as path:
        trials.to_parquet(path, index=False)
    if not (trials["state"] == "complete").any():
        reasons = trials["reason"].replace("", pd.NA).dropna()
        raise RunError(
            f"none of {len(trials)} trials was completed",
            where=str(folder),
            received=reasons.iloc[-1] if len(reasons) else "",
            fix="Search among lower learning rates, or with prune = false.",
        )
    best = study.best_trial
    chosen = chosen_by(config, best.params)
    with replacing(folder / "best.toml") as path:
        # What was searched is settled now.
        chosen.model_copy(update={"search": SearchConfig()}).save(path)
        path.write_text(_comment(folder, config, trials, best) + path.read_text(encoding="utf-8"), encoding="utf-8")
    figures = {"history": plot_search(trials, judged_by(config), less_is_better(config))}
    figures["space"] = plot_space(trials, config.search.space, judged_by(config), _importances(study))
    save_plots(figures, folder / "plots")
    return trials


def trials_of(study: Any, config: Config) -> pd.DataFrame:
    """Return a row per finished trial: what COLUMNS name, then the value of every setting; lists as JSON."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "epochs": trial.user_attrs.get("epochs", 0),
            "seconds": trial.user_attrs.get("seconds", 0.0),
            "reason": trial.user_attrs.get("reason", ""),
            **{name: trial.params.get(name) for name in config.search.space},
        }
        for trial in finished(study)
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *config.search.space])
    return frame.astype({"value": float, "seconds": float})


def best_first(trials: pd.DataFrame, config: Config, most: int = 5) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of the best trials."""
    names = list(config.search.space)
    complete = trials[trials["state"] == "complete"].sort_values("value", ascending=less_is_better(config))
    rows = [
        [str(row["number"]), f"{row['value']:.4f}", *(_short(row[name]) for name in names), str(row["epochs"])]
        for row in complete.head(most).to_dict("records")
    ]
    return ["trial", judged_by(config), *names, "epochs"], rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _comment(folder: Path, config: Config, trials: pd.DataFrame, best: Any) -> str:
    """Say in the first lines of a recipe where it comes from and what it reached."""
    counts = trials["state"].value_counts()
    figures = best.user_attrs["figures"]
    lines = [
        f"Trial {best.number}, the best of {len(trials)} of study {folder.name}: {judged_by(config)} {best.value:.4f}.",
        command("train", "--config", folder / "best.toml"),
        "",
        f"trials: {', '.join(f'{count} {state}' for state, count in counts.items())}; {config.search.sampler}",
        f"seed: {config.fit.seed}",
        f"seconds: {best.user_attrs['seconds']:.1f}, of all trials {trials['seconds'].sum():.1f}",
        f"figures on the validation split, epoch {figures['epoch']} of {best.user_attrs['epochs']}:",
        *(f"  {name} {value:.4f}" for name, value in figures.items() if name.startswith("val_")),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"


def _importances(study: Any) -> dict[str, float]:
    """Return what share of the variance each setting explains, by fANOVA; nothing where complete trials are too few.

    Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html.
    """
    from optuna.importance import get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)) < ENOUGH:
        return {}
    try:
        return dict(get_param_importances(study))
    except (RuntimeError, ValueError):
        return {}
