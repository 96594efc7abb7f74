"""Everything a search names is checked before the first trial: settings, values, figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config, load_config
from multitask.errors import ConfigError
from multitask.tuning.space import check_search, chosen_by, is_whole, objectives, with_settings


def searching(**settings: object) -> Config:
    """Return the default configuration with another search."""
    return Config.model_validate({"search": settings})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"fit.learning_rat": {"low": 1e-4, "high": 1e-2}}, 'Did you mean "fit.learning_rate"'),
        ({"tasks.tag.loss_weight": [1, 2]}, 'Did you mean "tasks.tags.loss_weight"'),
        ({"data.split_seed": [1, 2]}, "no setting"),
        ({"model.dropout": {"low": 0.0, "high": 1.5}}, "model.dropout: expected less than 1"),
        ({"model.backbone": ["vgg16", "vgg17"]}, 'Did you mean "vgg1'),
        ({"fit.batch_size": {"low": 0, "high": 64}}, "fit.batch_size"),
        ({"fit.epochs": {"low": 1.5, "high": 4}}, "fit.epochs"),
    ],
)
def test_a_wrong_name_or_value_is_an_error_before_any_trial(space: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.space") as caught:
        check_search(searching(space=space))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '"fit.learning_rate" = { low = 0.0, high = 1.0, log = true }',
        '"fit.learning_rate" = { low = 1, high = 0.1 }',
        '"fit.learning_rate" = { low = 0.1, hig = 0.2 }',
        '"fit.learning_rate" = 3',
        '"fit.learning_rate" = []',
        "fit.learning_rate = { low = 0.1, high = 0.2 }",
    ],
)
def test_a_range_that_is_none_is_one_line_when_the_file_is_read(line: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[search.space]\n{line}\n")
    with pytest.raises(ConfigError, match="expected a list of values, or low < high") as caught:
        load_config(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)
    assert ("in quotes" in str(caught.value)) == (not line.startswith('"'))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("val_scor", 'Did you mean "val_score"'),
        ("val_category_acuracy", 'Did you mean "val_category_accuracy"'),
        (["val_score", "val_loss"], "cannot share a mean"),
        ([], "none"),
    ],
)
def test_a_wrong_objective_is_an_error_that_names_the_nearest(objective: object, words: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.objective") as caught:
        check_search(searching(objective=objective))
    assert words in str(caught.value)


def test_weights_of_losses_are_not_chosen_by_the_loss_that_they_weigh() -> None:
    with pytest.raises(ConfigError, match="weighing nothing"):
        check_search(searching(objective="val_loss", space={"tasks.tags.loss_weight": {"low": 0.0, "high": 2.0}}))


def test_the_figures_that_may_be_asked_for_are_those_of_a_history(trained: object) -> None:
    history = pd.read_csv(trained.folder / "history.csv")
    assert set(objectives(trained.config)) == {name for name in history if name.startswith("val_")}


def test_whole_numbers_stay_whole_and_lists_come_back_as_they_were() -> None:
    sizes = [[64, 64], [96, 96]]
    config = searching(
        space={
            "fit.batch_size": {"low": 8, "high": 64},
            "fit.learning_rate": {"low": 1, "high": 2},
            "model.image_size": sizes,
        }
    )
    check_search(config)
    assert is_whole(config, "fit.batch_size")
    assert not is_whole(config, "fit.learning_rate")
    chosen = chosen_by(config, {"fit.batch_size": 17, "model.image_size": "[96, 96]"})
    assert chosen == with_settings(config, {"fit.batch_size": 17, "model.image_size": (96, 96)})


def test_what_nothing_beats_in_all_costs_is_undominated() -> None:
    from multitask.tuning.pareto import undominated

    costs = np.array([[1.0, 5, 5], [2.0, 4, 5], [2.0, 5, 5], [1.0, 5, 5]])
    assert undominated(costs).tolist() == [True, True, False, True]
