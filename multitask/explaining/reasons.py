"""Everything that explains the answers to some rows: slices as a table, pictures as figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.data.archives import Archive, read_image
from multitask.evaluation.assessment import open_for_show
from multitask.explaining.attention import attention
from multitask.explaining.pictures import Arrays, explain_pictures
from multitask.explaining.slices import slice_rows
from multitask.network.model import Network
from multitask.network.preprocessing import preprocess_batch
from multitask.spec import ModelSpec


def explain_answers(
    spec: ModelSpec,
    network: Network,
    archive: Archive,
    ids: Sequence[str],
    labels: Arrays,
    scores: Arrays,
    columns: pd.DataFrame,
    groups: NDArray[np.int64],
) -> tuple[pd.DataFrame, dict[str, Figure]]:
    """Return the table of slices and figures by name.

    Args:
        spec: with thresholds.
        network: trained, in float32.
        archive, ids: where the pictures are, and their names, (rows,).
        labels, scores: per task, as in `evaluation.tasks`.
        columns, groups: see `slice_rows`.
    """

    def picture(row: int) -> NDArray[np.uint8]:
        return open_for_show(archive, ids[row], spec)

    def attend(task: str, rows: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.float32] | None:
        files = [read_image(archive, ids[row])[0] for row in rows]
        images, _ = preprocess_batch(np.array(files, object), spec.image)
        return attention(network, images, task, answers)

    slices = slice_rows(spec, labels, scores, columns, groups)
    return slices, explain_pictures(spec, labels, scores, picture, attend)
