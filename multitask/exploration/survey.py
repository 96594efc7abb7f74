"""Look at a data set before any training: table, images and the split that would be made; write what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.division import divide
from multitask.audit.looks import COLUMNS
from multitask.audit.rows import Audit, audit_cache, audit_rows
from multitask.config import Config
from multitask.data.archives import Archive
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.sources import open_images
from multitask.data.tables import Table, as_table
from multitask.errors import ArchiveError
from multitask.exploration import plots as data_plots
from multitask.exploration.facts import BLURRED, BRIGHT, DARK, Exploration, explore_data
from multitask.exploration.report import write_data_report
from multitask.privacy import hide_secrets
from multitask.progress import Progress, Quiet
from multitask.spec import ModelSpec
from multitask.storage import replacing
from multitask.style import save_plots
from multitask.workers import Nobody, Workers


def survey(
    config: Config,
    out: Path,
    progress: Progress = Quiet(),  # noqa: B008
    workers: Workers = Nobody(),  # noqa: B008
) -> Exploration:
    """Write audit.json, images.parquet (what each row's image looks like), quarantine.parquet, plots and report.html.

    Without images the table alone is looked at, and that is said. `workers` may look at images beforehand.

    Raises:
        TableError: the label table cannot be read.
    """
    data = config.data
    frame = read_frame(data.labels, data.query)
    spec = config.model_spec(settle_classes(frame, config.tasks, data.labels))
    table = as_table(frame, data.id_column, spec.tasks, data.labels)
    archive = _archive(config, frame, progress)
    audit = None if archive is None else _audit(table, spec, archive, config, progress, workers)
    reasons = np.where(table.ids == "", "no id", "").astype(object) if audit is None else audit.reasons
    orphans = [] if archive is None else archive.without_row(table.ids)
    groups, parts = _split(table, spec, audit, reasons, config)
    found = explore_data(frame, table, spec.tasks, audit, parts, orphans, groups)
    _write(found, table, spec, audit, archive, reasons, config, out)
    if archive is not None:
        archive.close()
    return found


def _archive(config: Config, frame: pd.DataFrame, progress: Progress) -> Archive | None:
    try:
        return open_images(config.data, frame)
    except ArchiveError as error:
        progress.say(f"{error}\nLooking at the table alone.")
        return None


def _audit(
    table: Table, spec: ModelSpec, archive: Archive, config: Config, progress: Progress, workers: Workers
) -> Audit:
    with progress.track("looking at images", len(set(table.ids))) as advance:
        audit = audit_rows(
            table,
            spec.tasks,
            archive,
            spec.image.max_pixels,
            audit_cache(config.data),
            advance,
            config.data.near_duplicates,
            workers,
        )
    progress.say(f"images: {audit.looked:,} looked at, {len(set(table.ids)) - audit.looked:,} known from before")
    return audit


def _split(
    table: Table, spec: ModelSpec, audit: Audit | None, reasons: NDArray[np.object_], config: Config
) -> tuple[NDArray[np.int64] | None, NDArray[np.object_] | None]:
    """Return group and part of every row, -1 and "" for one that is not used; nothing if no row is."""
    usable = reasons == ""
    if not usable.any():
        return None, None
    pictures = table.ids if audit is None else audit.digests
    alike = np.full(len(table), -1) if audit is None else audit.alike
    groups, parts = np.full(len(table), -1), np.full(len(table), "", object)
    groups[usable], parts[usable] = divide(table.take(usable), spec.tasks, pictures[usable], alike[usable], config.data)
    return groups, parts


def _write(
    found: Exploration,
    table: Table,
    spec: ModelSpec,
    audit: Audit | None,
    archive: Archive | None,
    reasons: NDArray[np.object_],
    config: Config,
    out: Path,
) -> None:
    with replacing(out / "audit.json") as path:
        path.write_text(json.dumps(found.facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    bad = np.flatnonzero(reasons != "")
    with replacing(out / "quarantine.parquet") as path:
        pd.DataFrame({"id": table.ids[bad], "row": bad, "reason": reasons[bad]}).to_parquet(path, index=False)
    if audit is not None:
        with replacing(out / "images.parquet") as path:
            _images(table, audit).to_parquet(path, index=False)
    figures = {
        "balance": data_plots.plot_balance(found.facts["tasks"]),
        "correlation": data_plots.plot_correlation(found.columns, found.correlation),
    }
    if audit is not None:
        looks = audit.looks.take(audit.looks.reason == "")
        limits = {"dark": DARK, "bright": BRIGHT, "blurred": BLURRED}
        figures["images"] = data_plots.plot_images(looks, limits)
    paths = save_plots(figures, out / "plots")
    summary = f"{len(table):,} rows of {hide_secrets(config.data.labels)}"
    summary += f", {found.facts['images']['readable']:,} readable images" if audit is not None else ", no images"
    write_data_report(
        out / "report.html",
        "What is in this data",
        summary,
        found,
        table,
        audit,
        archive,
        paths,
        spec.image.max_pixels,
    )


def _images(table: Table, audit: Audit) -> pd.DataFrame:
    """Return what each row's image looks like; 0 and "" where there is none."""
    rows, there = audit.images, audit.images >= 0
    columns: dict[str, Any] = {"id": table.ids, "alike": audit.alike}
    for name in COLUMNS:
        if name != "thumbnail":
            values = getattr(audit.looks, name)
            columns[name] = np.full(len(rows), "" if values.dtype == object else 0, values.dtype)
            columns[name][there] = values[rows[there]]
    columns["reason"] = np.where(there, columns["reason"], audit.reasons)
    return pd.DataFrame(columns)
