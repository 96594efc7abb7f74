"""The window: the predictions that are held against the profile, from prediction tables or from a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from multitask.audit.measures import MEASURES
from multitask.data.archives import Archive
from multitask.errors import ConfigError, TableError
from multitask.monitoring.profile import measure_rows
from multitask.prediction.log import SPEC_KEY, log_parts
from multitask.progress import Progress, Quiet
from multitask.spec import ModelSpec

# Images of a table that are measured; of more, as many are drawn.
MOST_MEASURED = 5_000


@dataclass(frozen=True)
class Window:
    """Predictions of some images.

    Args:
        frame: a row per answered image: id, score columns and, where they are known, measures.
        rows, refused: how many predictions, and how many of them were not answered.
        reasons: why not, with how often.
        span: of time, for people; "" where it is unknown.
        notes: what a reader should know of it.
    """

    frame: pd.DataFrame
    rows: int
    refused: int
    reasons: dict[str, int]
    span: str
    notes: list[str]

    @property
    def has_measures(self) -> bool:
        """Is it known what its images look like?"""
        return MEASURES[0] in self.frame


def read_window(
    spec: ModelSpec,
    places: Sequence[str],
    archive: Archive | None = None,
    days: int | None = None,
    progress: Progress = Quiet(),  # noqa: B008
) -> Window:
    """Read prediction tables and logs as one window.

    Args:
        spec: of the run that they are held against.
        places: prediction tables and folders of logs.
        archive: images of the tables, which are then measured.
        days: of a log, only the last so many days, today included.
        progress: where to report.

    Raises:
        TableError: there are no predictions of such a model.
    """
    notes: list[str] = []
    frames = [frame for place in places for frame in _read(spec, Path(place), days, notes)]
    whole = pd.concat(frames, ignore_index=True)
    is_ok = (whole["status"] == "ok").to_numpy()
    reasons = whole.loc[~is_ok, "status"].astype(str).str.split(":").str[0].value_counts().to_dict()
    frame = whole[is_ok].drop(columns="status").reset_index(drop=True)
    span = ""
    if "time" in frame and len(frame):
        first, last = frame["time"].min(), frame["time"].max()
        span = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    if archive is not None and len(frame):
        frame = _with_measures(frame, archive, spec.image.max_pixels, notes, progress)
    if MEASURES[0] not in frame or frame[MEASURES[0]].isna().all():
        frame = frame.drop(columns=[name for name in MEASURES if name in frame])
        notes.append("What the images look like is not known: name them with --images, or monitor a log.")
    return Window(frame, len(whole), int((~is_ok).sum()), reasons, span, notes)


def _read(spec: ModelSpec, place: Path, days: int | None, notes: list[str]) -> list[pd.DataFrame]:
    if place.is_dir():
        return _read_log(spec, place, days, notes)
    if days is not None:
        raise ConfigError("a table of predictions has no days", where=str(place), fix="Leave --days out.")
    try:
        schema = pq.read_schema(place)
    except FileNotFoundError:
        raise TableError("no such file or folder", where=str(place), fix="Predict first.") from None
    except (pa.ArrowException, OSError):
        raise TableError("is no table of predictions", where=str(place), expected="a parquet file, or a log") from None
    missing = sorted(_columns(spec) - set(schema.names))
    if missing:
        raise TableError(
            "these are no predictions of this run",
            where=str(place),
            expected=f"columns such as {', '.join(missing[:3])}",
            received=", ".join(schema.names[:6]),
            fix="Name the run that made them: --reference RUN.",
        )
    if not _is_of(spec, schema):
        notes.append(f"{place.name} was predicted by another model with the same tasks, or with other thresholds.")
    # The first column of a prediction table is its id, whatever its name.
    frame = _frame(place, [schema.names[0], *_columns(spec)])
    return [frame.rename(columns={schema.names[0]: "id"})]


def _read_log(spec: ModelSpec, folder: Path, days: int | None, notes: list[str]) -> list[pd.DataFrame]:
    parts = log_parts(folder)
    if not parts:
        raise TableError("is no log", where=str(folder), expected="date=YYYY-MM-DD/part-*.parquet")
    if days is not None:
        first = f"date={datetime.now(UTC) - timedelta(days=days - 1):%Y-%m-%d}"
        parts = [part for part in parts if part.parent.name >= first]
    own = [part for part in parts if _is_of(spec, pq.read_schema(part))]
    if not own:
        raise TableError(
            "the log holds no predictions of this run" + (" in these days" if days is not None else ""),
            where=str(folder),
            received=f"{len(parts):,} parts of other models",
            fix="Name the run that is served: --reference RUN.",
        )
    if len(own) < len(parts):
        notes.append(f"{len(parts) - len(own):,} of {len(parts):,} parts of the log are of other models: left out.")
    return [_frame(part, ["id", "time", *_columns(spec), *MEASURES]) for part in own]


def _frame(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    return pq.ParquetFile(path).read(columns=list(columns)).to_pandas()


def _columns(spec: ModelSpec) -> set[str]:
    return {"status", *(column for task in spec.tasks for column in task.score_columns)}


def _is_of(spec: ModelSpec, schema: pa.Schema) -> bool:
    found = (schema.metadata or {}).get(SPEC_KEY)
    return found is not None and found.decode() == spec.model_dump_json()


def _with_measures(
    frame: pd.DataFrame, archive: Archive, max_pixels: int, notes: list[str], progress: Progress
) -> pd.DataFrame:
    """Measure images of rows that have none yet."""
    for name in MEASURES:
        if name not in frame:
            frame[name] = np.nan
    rows = np.flatnonzero(frame[MEASURES[0]].isna().to_numpy())
    if len(rows) > MOST_MEASURED:
        notes.append(f"{MOST_MEASURED:,} of {len(rows):,} images were measured.")
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_MEASURED, replace=False))
    with progress.track("measuring images", len(rows)) as advance:
        measures = measure_rows(frame["id"].to_numpy()[rows], archive, max_pixels, advance)
    frame.loc[rows, list(MEASURES)] = measures
    if np.isnan(measures[:, 0]).all():
        raise TableError(
            "none of these images is there",
            where="--images",
            expected=f"ids such as {frame['id'].iloc[0]}",
            received=f"images such as {next(iter(archive), '(none)')}",
        )
    return frame
