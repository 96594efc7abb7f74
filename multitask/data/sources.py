"""A table and its images together, as doors are given them: which rows there are, and where their images lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from multitask.data.archives import Archive, open_archive
from multitask.data.frames import IMAGE_COLUMNS, read_frame
from multitask.data.idx import is_idx
from multitask.data.locations import SEPARATOR, TABLE_SUFFIXES, Location
from multitask.data.tables import how_to_name_images, read_table
from multitask.errors import ArchiveError, ConfigError, TableError
from multitask.settings import DataConfig, in_table


def open_rows(
    table: str, id_column: str, images: Sequence[str], trained_on: DataConfig | None
) -> tuple[list[str], Archive]:
    """Return the ids of the rows to predict, and their images.

    Args:
        table: a table, or a picture, or a folder or an archive of pictures: then each of them is a row.
        id_column: of the table.
        images: where they lie; empty for those of a picture, or those of `images_of`.
        trained_on: the data of the run that predicts; None where that is unknown.

    Raises:
        ConfigError: nothing says where the images lie.
        TableError: no row has an image, or there is none.
    """
    if not images and _holds_pictures(table):
        archive = open_archive(table)
        if not len(archive):
            raise TableError("is no table and holds no picture", where=table, expected="a table, or pictures")
        return archive.row_names(), archive
    ids = read_table(table, id_column).ids.tolist()
    archive = open_archive(*images_of(table, images, trained_on))
    if not any(name in archive for name in ids if name):
        examples = ", ".join(name for name, _ in zip(archive, range(3), strict=False)) or "(no image at all)"
        archive.close()
        raise TableError(
            "no row has an image",
            where=str(Location.of_table(table)),
            expected=f"ids such as {examples}",
            received=f"ids such as {', '.join(ids[:3])}",
            fix="Name the archives of these rows: --images ARCHIVE.",
        )
    return ids, archive


def open_images(data: DataConfig, labels: pd.DataFrame) -> Archive:
    """Open the images of a label table.

    Raises:
        ArchiveError: they cannot be opened; where the table itself holds or names images, the words for that are told.
    """
    try:
        return open_archive(*data.archives)
    except ArchiveError as error:
        fix = f"{error.fix} {how_to_name_images(labels)}".strip()
        raise ArchiveError(
            error.problem, where=error.where, expected=error.expected, received=error.received, fix=fix
        ) from None


def images_of(table: str, images: Sequence[str], trained_on: DataConfig | None) -> tuple[str, ...]:
    """Return where the images of a table lie: as named, else where those of the training did.

    `labels::ID::IMAGE` is a column of the table; of the training's where that is by default and the table has none.

    Raises:
        ConfigError: nothing says where they lie.
    """
    if images:
        return in_table(images, table)
    if trained_on is None:
        raise ConfigError(
            "--images is missing", where="command line", fix="A model alone does not know where they are."
        )
    columns = {place.rsplit(SEPARATOR, 1)[1] for place in trained_on.images if place.startswith(f"labels{SEPARATOR}")}
    if columns:
        frame = read_frame(table)
        if columns <= {*frame.columns, *frame.attrs.get(IMAGE_COLUMNS, ())}:
            return in_table(trained_on.images, table)
    return trained_on.archives


def _holds_pictures(place: str) -> bool:
    """Tell pictures from a table: a folder without tables, or a file that is named otherwise than tables are."""
    path = Path(place)
    if path.is_dir():
        return [part.path for part in Location(place).parts()] == [path]
    return path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES and not is_idx(path)
