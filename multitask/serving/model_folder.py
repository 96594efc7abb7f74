"""The folder that model servers watch: numbered versions of one model, their labels, and who beat whom.

serving/models/multitask/
  1/ 2/ ...            SavedModels; a server loads whatever numbered folder it sees, so each appears by one rename
  .withdrawn-3/        taken back; servers do not see it, and its number is not used again
  ledger.json          every publish and rollback, oldest first
serving/models/
  models.config        what TF-Serving reads: every model here, its versions and labels

TF-Serving answers a label with 404 whenever its version is not loaded. So a version appears before a label names it, a
label leaves a version before that goes, and the server keeps one version more than the labels name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multitask.errors import ConfigError, GateError
from multitask.storage import locked, replacing, sync

MODELS = Path("serving/models")
NAME = "multitask"
# Newest first.
LABELS = ("stable", "previous")
# Our server keeps the newest version and the one before it: what the label "previous" names, and what a client that
# started before a publish is still using.
KEPT_VERSIONS = 2
# TF-Serving moves its labels seconds after it has loaded or dropped a version, so it keeps one more; see its policy
# AvailabilityPreserving and docker/serving.Dockerfile, where it looks at models.config every 5 s.
KEPT_BY_TF_SERVING = 3
CONFIG_SECONDS = 6.0
_WITHDRAWN, _ADDING = ".withdrawn-", ".adding-"
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ModelFolder:
    """The versions of one model."""

    directory: Path

    def __post_init__(self) -> None:
        if not _MODEL_NAME.fullmatch(self.name):
            raise ConfigError(f'"{self.name}" is no name of a model', expected="letters, digits, dot, dash, underscore")

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.directory.name

    def path(self, version: int) -> Path:
        """Return the folder of a version."""
        return self.directory / str(version)

    def versions(self) -> list[int]:
        """Return the versions that servers see, ascending."""
        return sorted(self._numbers(""))

    def labels(self) -> dict[str, int]:
        """Return what `stable` (the version that answers) and `previous` (the one before it) stand for."""
        return _labels(self.versions())

    def add(self, saved_model: Path, event: Mapping[str, Any] | None = None, after: int | None = -1) -> int:
        """Copy a SavedModel in as the next version and return its number.

        Servers look at the folder all the time, so the copy is made under a name they ignore and appears by one rename,
        when all of it is on the disk.

        Args:
            saved_model: a folder.
            event: facts for the ledger; none for no entry.
            after: the version that must still be the newest, None for none at all; -1 does not ask.

        Raises:
            GateError: another version was added meanwhile, or the folder cannot be written.
        """
        try:
            with self._locked():
                newest = max(self.versions(), default=None)
                if after != -1 and newest != after:
                    raise GateError(
                        f"version {newest} was published meanwhile and has not been compared with",
                        where=str(self.directory),
                        fix="Run the same command again.",
                    )
                version = max([*self._numbers(""), *self._numbers(_WITHDRAWN)], default=0) + 1
                temporary = self.directory / f"{_ADDING}{os.getpid()}"
                try:
                    shutil.copytree(saved_model, temporary)
                    sync(temporary)
                    os.rename(temporary, self.path(version))
                    sync(self.directory)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                if event is not None:
                    self._record("publish", version=version, **event)
        except PermissionError as error:
            raise GateError(f"cannot be written ({error.strerror})", where=str(error.filename)) from None
        return version

    def roll_back(self, pause_s: float = CONFIG_SECONDS) -> tuple[int, int]:
        """Take the newest version away from servers by one rename; return it and the one that answers then.

        The labels move first; the version goes `pause_s` later, when a TF-Serving that watches has read them.

        Raises:
            GateError: there is no version to go back to.
        """
        with self._locked():
            versions = self.versions()
            if len(versions) < 2:
                raise GateError(
                    "there is no earlier version to go back to",
                    where=str(self.directory),
                    received=f"versions {versions}",
                )
            withdrawn, now = versions[-1], versions[-2]
            self._write_models_config(without=withdrawn)
            time.sleep(pause_s)
            os.rename(self.path(withdrawn), self.directory / f"{_WITHDRAWN}{withdrawn}")
            sync(self.directory)
            self._record("rollback", withdrawn=withdrawn, version=now)
        return withdrawn, now

    def ledger(self) -> list[dict[str, Any]]:
        """Return every event, oldest first."""
        path = self.directory / "ledger.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one to change the models, and sweep up what killed ones left."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory.parent):
            for litter in (
                *self.directory.glob(f"{_ADDING}*"),
                *self.directory.glob(".ledger.*.json"),
                *self.directory.parent.glob(".models.*.config"),
            ):
                shutil.rmtree(litter) if litter.is_dir() else litter.unlink()
            yield

    def _record(self, event: str, **facts: Any) -> None:
        """Append an event to the ledger, and tell TF-Serving which versions the labels name."""
        entry = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        with replacing(self.directory / "ledger.json") as path:
            path.write_text(json.dumps([*self.ledger(), entry], indent=2, allow_nan=False) + "\n", encoding="utf-8")
            sync(path)
        self._write_models_config()

    def _write_models_config(self, without: int | None = None) -> None:
        """Write TF-Serving's models.config: every model beside this one, as the container sees them, below /models.

        The message is ModelServerConfig of tensorflow_serving/config/model_server_config.proto.

        Args:
            without: a version of this model that the labels must leave.
        """
        root = self.directory.parent
        folders = [path for path in sorted(root.iterdir()) if path.is_dir() and _MODEL_NAME.fullmatch(path.name)]
        models = [(model.name, model.versions()) for model in map(ModelFolder, folders)]
        lines = [
            line
            for name, versions in models
            if versions
            for line in _config_of(name, [v for v in versions if name != self.name or v != without])
        ]
        with replacing(root / "models.config") as path:
            path.write_text("\n".join(["model_config_list {", *lines, "}"]) + "\n", encoding="utf-8")
            sync(path)

    def _numbers(self, prefix: str) -> list[int]:
        """Return the numbers of folders named by a prefix and digits."""
        names = [path.name for path in self.directory.glob(f"{prefix}*")] if self.directory.is_dir() else []
        rests = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [int(rest) for rest in rests if rest.isascii() and rest.isdigit()]


def _labels(versions: Sequence[int]) -> dict[str, int]:
    """Return what the labels stand for, of ascending versions."""
    return dict(zip(LABELS, reversed(versions[-len(LABELS) :]), strict=False))


def _config_of(name: str, versions: Sequence[int]) -> list[str]:
    labels = [f'    version_labels {{ key: "{key}" value: {version} }}' for key, version in _labels(versions).items()]
    return [
        "  config {",
        f'    name: "{name}"',
        f'    base_path: "/models/{name}"',
        '    model_platform: "tensorflow"',
        f"    model_version_policy {{ latest {{ num_versions: {KEPT_BY_TF_SERVING} }} }}",
        *labels,
        "  }",
    ]
