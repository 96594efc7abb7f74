"""What the validation scores so far decide: the best epoch, the learning rate of the next one, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multitask.settings import FitConfig


@dataclass(frozen=True)
class Plan:
    """What the scores so far say about the next epoch; epochs count from 0."""

    best_epoch: int
    learning_rate: float
    stop: bool


def plan_next_epoch(scores: Sequence[float], fit: FitConfig) -> Plan:
    """Return the plan after epochs with these validation scores; a function of nothing else, so a resume repeats it.

    Patience is a fifth of the epochs, at least 4. Training stops after as many epochs without a better score; on the
    schedule "plateau" the learning rate is halved whenever half of it has passed. What a schedule has decided
    beforehand is not cut off: patience begins at the last milestone, and half a cosine is followed to its end.
    """
    patience = max(4, fit.epochs // 5)
    best_epoch, waited, halvings = 0, 0, 0
    for epoch, score in enumerate(scores):
        if epoch == 0 or score > scores[best_epoch]:
            best_epoch, waited = epoch, 0
        else:
            waited += 1
            halvings += waited % (patience // 2) == 0
    patient_from = {"milestones": max(fit.milestones, default=0), "cosine": fit.epochs}.get(fit.schedule, 0)
    waited = min(waited, len(scores) - patient_from)
    return Plan(best_epoch, fit.learning_rate * _share(len(scores), halvings, fit), waited >= patience)


def _share(epoch: int, halvings: int, fit: FitConfig) -> float:
    """Return the learning rate of an epoch as a share of the highest; half a cosine: https://arxiv.org/abs/1608.03983."""
    if epoch < fit.warmup_epochs:
        return (epoch + 1) / (fit.warmup_epochs + 1)
    after = (epoch - fit.warmup_epochs) / max(fit.epochs - fit.warmup_epochs, 1)
    shares = {
        "plateau": 0.5**halvings,
        "constant": 1.0,
        "milestones": 0.1 ** sum(milestone <= epoch for milestone in fit.milestones),
        "cosine": 0.5 * (1 + math.cos(math.pi * min(after, 1.0))),
    }
    return shares[fit.schedule]
