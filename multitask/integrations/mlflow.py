"""MLflow: settings, figures per epoch and on the test split, files, and a version in the registry.

Runs go where $MLFLOW_TRACKING_URI says, by default into model_training/mlflow.db; look at them with `mlflow ui`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# Who follows a training tells nobody else; to be said before the library is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from multitask.config import Config
from multitask.integrations.trackers import figures_of, settings_of
from multitask.runs import Run, RunFolder
from multitask.storage import replacing

EXPERIMENT = REGISTERED = "multitask"
# Aliases in the registry: of the newest version, and of the published one.
ALIAS, CHAMPION = "candidate", "champion"
# File of a run that names its record.
_NOTED = "mlflow.txt"
# Files of a run that belong to its record; images and checkpoints stay where they are.
_FILES = ("config.toml", "spec.json", "manifest.json", "metrics.json", "history.csv", "report.html", "model.keras")
# What MLflow takes in one call.
_MOST_PARAMETERS, _LONGEST_VALUE = 100, 6000


class _MLflow:
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run = client, run_id

    def epoch(self, row: Mapping[str, float]) -> None:
        step = int(row["epoch"])
        # In one call, so that an epoch is there whole or not at all; one that is sent twice replaces itself.
        metrics = [Metric(name, float(value), 0, step) for name, value in row.items() if name != "epoch"]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, run: Run) -> None:
        metrics = [Metric(f"test.{name}", value, 0, 0) for name, value in figures_of(run).items()]
        self._client.log_batch(self._run, metrics=metrics)
        for name in _FILES:
            if (run.folder / name).is_file():
                self._client.log_artifact(self._run, str(run.folder / name))
        self._client.log_artifacts(self._run, str(run.folder / "plots"), "plots")
        self._client.set_terminated(self._run)
        self._register(run)

    def _register(self, run: Run) -> None:
        """Make the model the newest version of its name, with the alias `candidate`."""
        try:
            self._client.create_registered_model(REGISTERED)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(self._run).info.artifact_uri}/model.keras"
        version = self._client.create_model_version(REGISTERED, source, self._run, tags={"run": run.folder.name})
        self._client.set_registered_model_alias(REGISTERED, ALIAS, version.version)


def promote(run: Run) -> None:
    """Let the alias `champion` of the registry point to the model of a published run, if MLflow followed it."""
    if not (run.folder / _NOTED).is_file():
        return
    client, run_id = _client(run.folder), (run.folder / _NOTED).read_text(encoding="utf-8").strip()
    versions = client.search_model_versions(f"name='{REGISTERED}' and run_id='{run_id}'")
    if versions:
        newest = max(versions, key=lambda version: int(version.version))
        client.set_registered_model_alias(REGISTERED, CHAMPION, newest.version)


def _client(folder: RunFolder) -> MlflowClient:
    root = folder.directory.resolve().parent.parent
    return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}")


def open_tracker(config: Config, folder: RunFolder) -> _MLflow:
    """Open the record of a run, or go on with the one it has."""
    root = folder.directory.resolve().parent.parent
    client, noted = _client(folder), folder / _NOTED
    if noted.is_file():
        return _MLflow(client, noted.read_text(encoding="utf-8").strip())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    place = None if os.environ.get("MLFLOW_TRACKING_URI") else (root / "mlflow").as_uri()
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, place)
    run_id = client.create_run(number, run_name=folder.name).info.run_id
    settings = [Param(name, value[:_LONGEST_VALUE]) for name, value in settings_of(config).items()]
    for at in range(0, len(settings), _MOST_PARAMETERS):
        client.log_batch(run_id, params=settings[at : at + _MOST_PARAMETERS])
    with replacing(noted) as path:
        path.write_text(run_id + "\n", encoding="utf-8")
    return _MLflow(client, run_id)
