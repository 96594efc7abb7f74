"""What the validation scores so far decide: the best epoch, the learning rate of the next one, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What the scores so far say about the next epoch; epochs count from 0."""

    best_epoch: int
    learning_rate: float
    stop: bool


def plan_next_epoch(scores: Sequence[float], learning_rate: float, epochs: int) -> Plan:
    """Return the plan after epochs with these validation scores; a function of nothing else, so a resume repeats it.

    Patience is a fifth of the epochs, at least 4. Training stops after as many epochs without a better score; the
    learning rate is halved whenever half of it has passed.
    """
    patience = max(4, epochs // 5)
    best_epoch, waited = 0, 0
    for epoch, score in enumerate(scores):
        if epoch == 0 or score > scores[best_epoch]:
            best_epoch, waited = epoch, 0
        else:
            waited += 1
            learning_rate /= 2 if waited % (patience // 2) == 0 else 1
    return Plan(best_epoch, learning_rate, waited >= patience)
