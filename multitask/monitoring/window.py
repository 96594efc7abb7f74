"""The window: the predictions that are held against the profile, from prediction tables or from a log."""

from __future__ import annotations

from collections import Counter
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
from multitask.prediction.log import LATENCY, MODEL_KEY, SPEC_KEY, log_parts
from multitask.progress import Progress, Quiet
from multitask.spec import ModelSpec

# Rows tell a distribution no better beyond this: of more answered ones, as many are drawn, and all are counted.
MOST_ROWS = 10_000
# Images of a table that are measured; of more, as many are drawn.
MOST_MEASURED = 5_000
_BATCH_ROWS = 2_048


@dataclass(frozen=True)
class Window:
    """Predictions of some images.

    Args:
        frame: a row per answered image, of many as many as are drawn: id, score columns and, where they are known,
            measures.
        rows, refused: how many predictions there are, and how many of them were not answered.
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
    def latency_ms(self) -> dict[str, float]:
        """Milliseconds from request to answer, by the share of answers that took no longer; {} where none is known."""
        known = self.frame[LATENCY].dropna() if LATENCY in self.frame else []
        return {f"{share:g}": float(np.quantile(known, share)) for share in (0.5, 0.95, 0.99)} if len(known) else {}

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
        places: prediction tables, files or folders of parts, and folders of logs.
        archive: images of the tables, which are then measured.
        days: of a log, only the last so many days, today included.
        progress: where to report.

    Raises:
        TableError: there are no predictions of such a model.
    """
    notes: list[str] = []
    drawn = _Drawn(spec)
    for place in map(Path, places):
        tables = sorted(place.glob("part-*.parquet")) if place.is_dir() else [place]
        if not tables:
            _read_log(drawn, place, days, notes)
        for table in tables:
            _read_table(drawn, table, days, notes)
    if not drawn.rows:
        raise TableError("there is no prediction in it", where=", ".join(places), fix="Predict first.")
    frame = drawn.frame()
    if len(frame) < drawn.answered:
        notes.append(f"{len(frame):,} of {drawn.answered:,} answered rows are drawn; refused ones are all counted.")
    if archive is not None and len(frame):
        frame = _with_measures(frame, archive, spec.image.max_pixels, notes, progress)
    if MEASURES[0] not in frame or frame[MEASURES[0]].isna().all():
        frame = frame.drop(columns=[name for name in MEASURES if name in frame])
        notes.append("What the images look like is not known: name them with --images, or monitor a log.")
    reasons = dict(drawn.reasons.most_common())
    return Window(frame, drawn.rows, drawn.rows - drawn.answered, reasons, drawn.span, notes)


class _Drawn:
    """Counts predictions as they are read, and keeps answered ones that were drawn: memory is bounded."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.rows = self.answered = 0
        self.reasons: Counter[str] = Counter()
        self._first = self._last = pd.NaT
        self._scores = [column for task in spec.tasks for column in task.score_columns]
        self._kept: list[pd.DataFrame] = []
        self._random = np.random.default_rng(0)

    @property
    def span(self) -> str:
        """Of time, for people."""
        if self._first is pd.NaT:
            return ""
        return f"{self._first:%Y-%m-%d %H:%M} to {self._last:%Y-%m-%d %H:%M} UTC"

    def read(self, file: pq.ParquetFile, id_column: str, more: Sequence[str]) -> None:
        """Take the predictions of a file.

        Raises:
            ArrowException, OSError: it is damaged, or scores are no numbers.
        """
        fields = [(name, pa.float32()) for name in self._scores]
        for batch in file.iter_batches(_BATCH_ROWS, columns=[id_column, "status", *self._scores, *more]):
            columns = {name: batch.column(name).cast(kind) for name, kind in (("status", pa.string()), *fields)}
            columns["id"] = batch.column(id_column).cast(pa.string())
            columns |= {name: batch.column(name) for name in more}
            self._take(pa.table(columns).to_pandas())

    def frame(self) -> pd.DataFrame:
        """Return the answered rows that are kept, in their order."""
        self._thin()
        return self._kept[0].drop(columns="drawn").sort_index().reset_index(drop=True)

    def _take(self, frame: pd.DataFrame) -> None:
        frame.index = pd.RangeIndex(self.rows, self.rows + len(frame))
        self.rows += len(frame)
        if "time" in frame and len(frame):
            self._first = min(self._first, frame["time"].min()) if self._first is not pd.NaT else frame["time"].min()
            self._last = max(self._last, frame["time"].max()) if self._last is not pd.NaT else frame["time"].max()
        status = frame.pop("status").fillna("no status").str.split(":").str[0]
        # A network whose arithmetic overflowed has answered nothing.
        status[(status == "ok") & ~np.isfinite(frame[self._scores]).all(axis=1)] = "scores are no numbers"
        is_ok = status == "ok"
        self.answered += int(is_ok.sum())
        self.reasons.update(status[~is_ok])
        self._kept.append(frame[is_ok].assign(drawn=self._random.random(int(is_ok.sum()))))
        if sum(map(len, self._kept)) > 2 * MOST_ROWS:
            self._thin()

    def _thin(self) -> None:
        self._kept = [pd.concat(self._kept).nsmallest(MOST_ROWS, "drawn")]


def _read_table(drawn: _Drawn, place: Path, days: int | None, notes: list[str]) -> None:
    if days is not None:
        raise ConfigError("a table of predictions has no days", where=str(place), fix="Leave --days out.")
    try:
        file = pq.ParquetFile(place)
    except FileNotFoundError:
        raise TableError("no such file or folder", where=str(place), fix="Predict first.") from None
    except (pa.ArrowException, OSError):
        raise TableError("is no table of predictions", where=str(place), expected="a parquet file, or a log") from None
    with file:
        names = file.schema_arrow.names
        missing = sorted(_columns(drawn.spec) - set(names))
        if missing:
            raise TableError(
                "these are no predictions of this run",
                where=str(place),
                expected=f"columns such as {', '.join(missing[:3])}",
                received=", ".join(names[:6]),
                fix="Name the run that made them: --reference RUN.",
            )
        if not _is_of(drawn.spec, file.schema_arrow):
            notes.append(f"{place.name} was predicted by another model with the same tasks, or with other thresholds.")
        try:
            # The first column of a prediction table is its id, whatever its name.
            drawn.read(file, names[0], ())
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"cannot be read ({str(error).splitlines()[0]})", where=str(place)) from None


def _read_log(drawn: _Drawn, folder: Path, days: int | None, notes: list[str]) -> None:
    parts = log_parts(folder)
    if not parts:
        raise TableError("is no log", where=str(folder), expected="date=YYYY-MM-DD/part-*.parquet")
    if days is not None:
        first = f"date={datetime.now(UTC) - timedelta(days=days - 1):%Y-%m-%d}"
        parts = [part for part in parts if part.parent.name >= first]
    others = damaged = 0
    models = set()
    for part in parts:
        # A server deletes old parts while we read; a disk may have lost the end of one.
        try:
            with pq.ParquetFile(part) as file:
                if not _is_of(drawn.spec, file.schema_arrow):
                    others += 1
                    continue
                drawn.read(file, "id", ("time", *MEASURES, LATENCY))
                models.add((file.schema_arrow.metadata or {}).get(MODEL_KEY, b"").decode(errors="replace"))
        except FileNotFoundError:
            continue
        except (pa.ArrowException, OSError, KeyError):
            damaged += 1
    if not models:
        raise TableError(
            "the log holds no predictions of this run" + (" in these days" if days is not None else ""),
            where=str(folder),
            received=f"{others:,} parts of other models, {damaged:,} that cannot be read",
            fix="Name the run that is served: --reference RUN.",
        )
    for count, what in ((others, "are of other models"), (damaged, "cannot be read")):
        if count:
            notes.append(f"{count:,} of {len(parts):,} parts of the log {what}: left out.")
    if len(models) > 1:
        notes.append(f"The answers are of {', '.join(sorted(models))}, which have the same tasks and settings.")


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
