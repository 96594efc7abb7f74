"""The folder that model servers watch: numbered versions of one model, their labels, and who beat whom.

serving/models/multitask/
  1/ 2/ ...            SavedModels; a server loads whatever numbered folder it sees, so each appears by one rename
  .withdrawn-3/        taken back; servers do not see it, and its number is not used again
  ledger.json          every publish and rollback, oldest first
serving/models/
  models.config        what TF-Serving reads: this model, its versions and labels
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multitask.errors import GateError
from multitask.storage import replacing

MODELS = Path("serving/models")
NAME = "multitask"
# Servers keep the newest version and the one before it: what the label "previous" names, and what a client that started
# before a publish is still using.
KEPT_VERSIONS = 2
_WITHDRAWN = ".withdrawn-"


@dataclass(frozen=True)
class ModelFolder:
    """The versions of one model."""

    directory: Path

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
        return dict(zip(("stable", "previous"), reversed(self.versions()[-2:]), strict=False))

    def add(self, saved_model: Path) -> int:
        """Copy a SavedModel in as the next version and return its number.

        Servers look at the folder all the time, so the copy is made under a name they ignore and appears by one rename.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        version = max([*self._numbers(""), *self._numbers(_WITHDRAWN)], default=0) + 1
        temporary = self.directory / f".adding-{os.getpid()}"
        try:
            shutil.copytree(saved_model, temporary)
            os.rename(temporary, self.path(version))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return version

    def roll_back(self) -> tuple[int, int]:
        """Take the newest version away from servers by one rename; return it and the one that answers now.

        Raises:
            GateError: there is no version to go back to.
        """
        versions = self.versions()
        if len(versions) < 2:
            raise GateError(
                "there is no earlier version to go back to", where=str(self.directory), received=f"versions {versions}"
            )
        withdrawn, now = versions[-1], versions[-2]
        os.rename(self.path(withdrawn), self.directory / f"{_WITHDRAWN}{withdrawn}")
        self.record("rollback", withdrawn=withdrawn, version=now)
        return withdrawn, now

    def ledger(self) -> list[dict[str, Any]]:
        """Return every event, oldest first."""
        path = self.directory / "ledger.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def record(self, event: str, **facts: Any) -> None:
        """Append an event to the ledger, and tell TF-Serving which versions the labels name now."""
        entry = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        with replacing(self.directory / "ledger.json") as path:
            path.write_text(json.dumps([*self.ledger(), entry], indent=2, allow_nan=False) + "\n", encoding="utf-8")
        self._write_models_config()

    def _write_models_config(self) -> None:
        """Write TF-Serving's models.config beside the folder, as the container sees it: below /models.

        It must follow the renames: labels may only name versions that can be loaded. The message is ModelServerConfig
        of tensorflow_serving/config/model_server_config.proto.
        """
        labels = [f'    version_labels {{ key: "{key}" value: {version} }}' for key, version in self.labels().items()]
        lines = [
            "model_config_list {",
            "  config {",
            f'    name: "{self.name}"',
            f'    base_path: "/models/{self.name}"',
            '    model_platform: "tensorflow"',
            f"    model_version_policy {{ latest {{ num_versions: {KEPT_VERSIONS} }} }}",
            *labels,
            "  }",
            "}",
        ]
        with replacing(self.directory.parent / "models.config") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _numbers(self, prefix: str) -> list[int]:
        """Return the numbers of folders named by a prefix and digits."""
        names = [path.name for path in self.directory.glob(f"{prefix}*")] if self.directory.is_dir() else []
        rests = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [int(rest) for rest in rests if rest.isascii() and rest.isdigit()]
