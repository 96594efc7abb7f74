"""The profile of a run: what rows that did not train it look like, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.measures import MEASURES, measure
from multitask.data.archives import Archive, open_archive, read_image
from multitask.errors import ArchiveError, RunError
from multitask.evaluation.assessment import GROUP_PREFIX
from multitask.monitoring.novelty import MOST_REFERENCE, See, drawn_rows, look
from multitask.monitoring.signals import WATCHES, scores_of, sureness_of
from multitask.monitoring.variation import Groups
from multitask.parallel import bounded_map
from multitask.progress import Advance, Progress, Quiet
from multitask.runs import Run, RunFolder
from multitask.spec import ModelSpec, Task
from multitask.storage import replacing

GROUP = "group"
TABLE, FACTS = "profile.parquet", "profile.json"
# So many rows tell a distribution well; of more, as many are drawn.
MOST_ROWS = 2_000
# Of the reference, so many rows count as unsure.
UNSURE_SHARE = 0.1
# Rows that trained nothing for these reasons have pictures that can be read.
_READABLE = ("no label for any task", "contradictory labels")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Profile:
    """What fresh images are held against.

    Args:
        frame: a row per image: id, split, score columns, measures; `group` (int64) where the run has group columns;
            what the network sees, of at most 500 rows.
        facts: `rows`, how many `looked` at of which `refused`, per task `right` (share of right answers), `sureness`
            (mean) and `unsure_below` (the least sure tenth), per measure its quantiles, and `group_sizes`: of all
            usable rows of the run, how many groups there are of each size.
    """

    frame: pd.DataFrame
    facts: dict[str, Any]

    @property
    def groups(self) -> Groups | None:
        """Which images belong together; None where the run knows of no groups."""
        if GROUP not in self.frame:
            return None
        numbers, sizes = self.frame[GROUP].to_numpy(np.int64), self.facts.get("group_sizes")
        if not sizes:
            return Groups.of(numbers)
        return Groups(numbers, np.repeat(*np.array([[int(size), count] for size, count in sizes.items()]).T))


def write_profile(
    folder: RunFolder,
    spec: ModelSpec,
    archive: Archive,
    progress: Progress = Quiet(),  # noqa: B008
    see: See | None = None,
) -> Profile:
    """Measure the images of validation and test rows, put their scores beside, and write both into the run.

    With `see`, what the network sees in some of the images is put beside as well.
    """
    splits = pd.read_parquet(folder / "splits.parquet").drop_duplicates("id").set_index("id")
    frame = pd.read_parquet(folder / "scores.parquet")
    if any(str(name).startswith(GROUP_PREFIX) for name in splits):
        frame[GROUP] = splits["group"].loc[frame["id"]].to_numpy(np.int64)
    frame = _drawn(frame)
    with progress.track("measuring images", len(frame)) as advance:
        measures = measure_rows(frame["id"], archive, spec.image.max_pixels, advance)
    columns = dict(zip(MEASURES, measures.T, strict=True))
    frame = pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)
    if see is not None:
        frame = look(frame, drawn_rows(frame, MOST_REFERENCE), archive, see, progress)
    profile = Profile(frame, _facts(folder, spec, frame, splits))
    with replacing(folder / TABLE) as path:
        frame.to_parquet(path, index=False)
    folder.write_json(FACTS, profile.facts)
    return profile


def open_profile(run: Run, progress: Progress = Quiet(), see: See | None = None) -> Profile:  # noqa: B008
    """Read the profile of a run; made now for one that has none, with `see` as `write_profile` says.

    Raises:
        RunError: the run has none, and its images are no longer where they were.
    """
    if (run.folder / FACTS).is_file():
        return Profile(pd.read_parquet(run.folder / TABLE), run.folder.read_json(FACTS))
    progress.say(f"run {run.folder.name} has no profile yet: it is made from its validation and test images")
    try:
        with open_archive(*run.config.data.archives) as archive:
            return write_profile(run.folder, run.spec, archive, progress, see)
    except ArchiveError as error:
        raise RunError(
            f"this run has no profile, and its images cannot be opened ({error.problem})",
            where=str(run.folder.directory),
            fix="Put them where they were, or train again.",
        ) from None


def measure_rows(
    ids: Iterable[str], archive: Archive, max_pixels: int, advance: Advance = lambda done: None
) -> NDArray[np.float32]:
    """Measure the images of rows, float32 (rows, measures); NaN where there is none, or one that cannot be read."""
    names = list(ids)
    found = np.full((len(names), len(MEASURES)), np.nan, np.float32)
    files = ((row, read_image(archive, names[row])[0]) for row in archive.in_order(names))
    for row, values in bounded_map(lambda file: (file[0], measure(file[1], max_pixels)), files, 2):
        found[row] = values
        advance(1)
    return found


def _drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """Return at most MOST_ROWS rows, drawn as whole groups where there are any: the size of a group tells too."""
    if len(frame) <= MOST_ROWS:
        return frame
    units = pd.factorize(frame[GROUP])[0] if GROUP in frame else np.arange(len(frame))
    ranks = np.random.default_rng(0).permutation(units.max() + 1)[units]
    return frame.iloc[np.sort(np.argsort(ranks, kind="stable")[:MOST_ROWS])].reset_index(drop=True)


def _facts(folder: RunFolder, spec: ModelSpec, frame: pd.DataFrame, splits: pd.DataFrame) -> dict[str, Any]:
    quarantine = pd.read_parquet(folder / "quarantine.parquet")
    refused = int((~quarantine["reason"].astype(str).str.startswith(_READABLE)).sum())
    labels = splits.loc[frame["id"]]
    numbers = frame[list(MEASURES)].dropna()
    sizes = splits[GROUP].value_counts().value_counts().sort_index() if GROUP in frame else {}
    return {
        "rows": len(frame),
        "looked": len(splits) + refused,
        "refused": refused,
        "tasks": {task.name: _task_facts(task, frame, labels) for task in spec.tasks},
        "measures": {name: _rounded(numbers[name].quantile(_QUANTILES)) for name in MEASURES if len(numbers)},
        "group_sizes": {str(size): int(count) for size, count in sizes.items()},
    }


def _task_facts(task: Task, frame: pd.DataFrame, labels: pd.DataFrame) -> dict[str, float]:
    known = labels[list(task.label_columns)].to_numpy(np.float64)
    right = WATCHES[task.kind].right(task, scores_of(task, frame), known[:, 0] if task.has_class_numbers else known)
    sure, is_known = sureness_of(task, frame), ~np.isnan(right)
    if not is_known.any():
        return {}
    return {
        "right": float(right[is_known].mean()),
        "sureness": float(sure[is_known].mean()),
        "unsure_below": float(np.quantile(sure, UNSURE_SHARE)),
    }


def _rounded(quantiles: Mapping[Any, float]) -> dict[str, float]:
    return {f"{share:g}": float(f"{value:.4g}") for share, value in quantiles.items()}
