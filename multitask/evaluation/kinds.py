"""What evaluation does differently for each kind of task: figures, thresholds, plots, words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation.calibration import Calibration
from multitask.evaluation.metrics import Figures, Floats, Labels
from multitask.evaluation.multiclass import Multiclass
from multitask.evaluation.multilabel import Multilabel
from multitask.evaluation.regression import Regression
from multitask.evaluation.words import Words
from multitask.spec import Kind, Task


class Evaluator(Protocol):
    """How one kind of task is evaluated; labels are (rows,) or (rows, answers), scores (rows, answers)."""

    @property
    def main(self) -> str:
        """The figure that chooses the best epoch and decides between two models; higher is better."""

    @property
    def watched(self) -> tuple[str, ...]:
        """The figures that are computed after every epoch."""

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> list[Figures]:
        """Return the figures, those that are computed together side by side."""

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task with what is chosen on the validation rows."""

    def calibrate(self, task: Task, labels: Labels, logits: Labels) -> Calibration | None:
        """Return what makes the scores of rows that did not train mean what they say; None for numbers."""

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> NDArray[np.int64] | None:
        """Return counts by true (rows) and predicted class (columns), if the kind has such."""

    def counts(self, task: Task, labels: Labels) -> Mapping[str, int]:
        """Return how many rows bear each answer."""

    def details(self, task: Task, labels: Labels, scores: Labels, values: Mapping[str, float]) -> pd.DataFrame:
        """Return a row per class or tag: label, rows and its figures; no rows for a kind without such.

        `values` are the figures by name.
        """

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw what the scores are worth, by the ending of the plot's name."""

    def misses(self, task: Task, labels: Labels, scores: Labels) -> Floats:
        """Return how surely each row is answered wrongly, (rows,); 0 where it is right or has no label."""

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Put the answer for one image in words."""


EVALUATORS: dict[Kind, Evaluator] = {
    "multiclass": Multiclass(),
    "multilabel": Multilabel(),
    "regression": Regression(),
}
