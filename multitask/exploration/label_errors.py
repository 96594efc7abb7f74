"""Labels that are probably wrong: what a model that has not seen a row says against what the row says.

Every row is scored by a model of the other rows: folds that part no group, logistic regression on the features of the
frozen network. Confident learning ranks them: Northcutt et al. 2021, https://doi.org/10.1613/jair.1.12125, by cleanlab.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multitask.audit import splits
from multitask.errors import ConfigError, install
from multitask.exploration.kinds import EXPLORERS, Question
from multitask.features.preparation import Prepared
from multitask.progress import Progress, Quiet

FOLDS = 5
# Features are projected to so many numbers, which bounds memory and time however large the network's are.
PROJECTED = 512
_BLOCK = 512
# A judge that is wrong more often than this suspects its own mistakes.
WEAK = 0.8
# Weak, so that single rows are not learned by heart.
_REGULARISATION = 0.01

Floats = NDArray[np.float64]


def find_label_errors(
    prepared: Prepared,
    seed: int = 0,
    progress: Progress = Quiet(),  # noqa: B008
) -> pd.DataFrame:
    """Rank the labels of every task by how likely they are wrong.

    Args:
        prepared: rows with their features.
        seed: of folds and projection.
        progress: where to report.

    Returns:
        A row per label that is given: task, label (the tag, or the label column), id, row (of the label table), given,
        suggested, quality (0 to 1, low is suspicious), suspicious, and agreement: the share of all labels that the
        judging models agree with, below WEAK of which the list says little. The worst of each task and tag come first.

    Raises:
        ConfigError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise ConfigError("cleanlab is not installed", fix=f"Install it: {install('cleanlab>=2.9,<3')}") from None
    features = _project(prepared, seed)
    fold_of = splits.folds(prepared.table.labels, prepared.spec.tasks, prepared.groups, prepared.digests, FOLDS, seed)
    found = []
    for question in _questions(prepared):
        rows = np.flatnonzero(~np.isnan(question.labels))
        labels = question.labels[rows].astype(int)
        present, codes = np.unique(labels, return_inverse=True)
        if len(present) < 2:
            continue
        progress.say(f"label errors: {question.task.name}, {question.name}")
        scores = _out_of_fold(features[rows], codes, fold_of[rows], len(present))
        names = np.array(question.classes, object)[present]
        found.append(
            pd.DataFrame(
                {
                    "task": question.task.name,
                    "label": question.name,
                    "id": prepared.table.ids[rows],
                    "row": prepared.table_rows[rows],
                    "given": names[codes],
                    "suggested": names[scores.argmax(axis=1)],
                    "quality": get_label_quality_scores(codes, scores).round(4),
                    "suspicious": find_label_issues(codes, scores, filter_by="both"),
                    "agreement": round(float((scores.argmax(axis=1) == codes).mean()), 4),
                }
            ).sort_values("quality", kind="stable")
        )
    columns = ["task", "label", "id", "row", "given", "suggested", "quality", "suspicious", "agreement"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _questions(prepared: Prepared) -> Iterator[Question]:
    for task in prepared.spec.tasks:
        yield from EXPLORERS[task.kind].questions(task, prepared.table.labels[task.name])


def _project(prepared: Prepared, seed: int) -> Floats:
    """Return float64 (rows, at most PROJECTED) random projections of the features, standardised."""
    rows = np.arange(len(prepared.table))
    gather = prepared.features(rows)
    size = int(np.prod(prepared.network.frozen.output.shape[1:]))
    random = np.random.default_rng(seed)
    axes = random.normal(0, size**-0.5, (size, PROJECTED)).astype(np.float32) if size > PROJECTED else None
    blocks = []
    for start in range(0, len(rows), _BLOCK):
        block = gather(rows[start : start + _BLOCK]).reshape(-1, size).astype(np.float32)
        blocks.append(block if axes is None else block @ axes)
    return np.concatenate(blocks).astype(np.float64)


def _out_of_fold(features: Floats, codes: NDArray[np.int64], fold_of: NDArray[np.int64], classes: int) -> Floats:
    """Return (rows, classes) probabilities, each row's from a model that has not seen it."""
    scores = np.full((len(codes), classes), 1.0 / classes)
    for fold in np.unique(fold_of):
        train, held = fold_of != fold, fold_of == fold
        known = np.unique(codes[train])
        if len(known) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_REGULARISATION, max_iter=500))
        model.fit(features[train], codes[train])
        # A class that no other fold has gets a small share, since every row of it would else look wrong for sure.
        found = np.full((int(held.sum()), classes), 1e-3)
        found[:, known] = model.predict_proba(features[held])
        scores[held] = found / found.sum(axis=1, keepdims=True)
    return scores
