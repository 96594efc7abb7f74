"""What the scores decide about the next epoch, as tables."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from multitask.settings import FitConfig
from multitask.spec import Task
from multitask.training.epochs import balanced
from multitask.training.schedule import Plan, plan_next_epoch


def plan(scores: list[float], epochs: int = 20, **settings: object) -> Plan:
    return plan_next_epoch(scores, FitConfig(epochs=epochs, learning_rate=1.0, **settings))


def rates(epochs: int, **settings: object) -> list[float]:
    return [plan([0.0] * epoch, epochs, **settings).learning_rate for epoch in range(epochs)]


def test_the_plan_halves_the_rate_on_a_plateau_and_stops_after_patience() -> None:
    assert plan([]) == Plan(0, 1.0, stop=False)
    assert plan([1, 2, 3]) == Plan(2, 1.0, stop=False)
    assert plan([3, 2, 2]) == Plan(0, 0.5, stop=False)
    assert plan([3, 2, 2, 4, 1]) == Plan(3, 0.5, stop=False)
    assert plan([3, 2, 2, 2, 3]) == Plan(0, 0.25, stop=True)
    assert not plan([3] + [0] * 9, 50).stop
    assert plan([3] + [0] * 10, 50).stop


def test_a_constant_rate_stays_and_patience_ends_it() -> None:
    assert rates(4, schedule="constant") == [1.0] * 4
    assert plan([3, 2, 2, 2, 2], schedule="constant").stop


def test_milestones_divide_the_rate_by_ten_and_patience_begins_at_the_last() -> None:
    assert rates(6, schedule="milestones", milestones=(2, 4)) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert not plan([3] + [0] * 12, schedule="milestones", milestones=(5, 10)).stop
    assert plan([3] + [0] * 13, schedule="milestones", milestones=(5, 10)).stop


def test_half_a_cosine_falls_to_nothing_and_is_followed_to_its_end() -> None:
    found = rates(8, schedule="cosine")
    assert found[0] == 1.0
    assert found[4] == pytest.approx(0.5)
    assert all(np.diff(found) < 0)
    assert found[-1] < 0.05
    assert not plan([3] + [0] * 18, schedule="cosine").stop


def test_a_warm_up_rises_to_the_highest_rate() -> None:
    assert rates(5, schedule="constant", warmup_epochs=3) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates(5, schedule="cosine", warmup_epochs=1)[1] == 1.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"milestones": (3,)}, "milestones go together"),
        ({"schedule": "milestones"}, "milestones go together"),
        ({"momentum": 0.5}, "momentum belongs to"),
    ],
)
def test_settings_that_belong_to_another_choice_are_refused(settings: dict, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        FitConfig(**settings)


def test_a_learned_balance_divides_every_task_by_what_is_left_of_its_loss() -> None:
    tasks = [Task(name=name, kind="regression", columns=(name,), classes=(name,)) for name in ("easy", "hard")]
    assert balanced(tasks, [], "learned") == {"easy": 1.0, "hard": 1.0}
    found = balanced(tasks, [{"easy_loss": 0.1, "hard_loss": 0.4}], "learned")
    assert found["easy"] == pytest.approx(4 * found["hard"])
    assert sum(found.values()) == pytest.approx(2)
    assert balanced(tasks, [{"easy_loss": 0.1, "hard_loss": 0.4}], "fixed") == {"easy": 1.0, "hard": 1.0}
