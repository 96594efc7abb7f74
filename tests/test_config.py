"""spec and config: wrong settings are named together; a configuration survives its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from multitask import cli
from multitask.config import Config, FitConfig, TaskConfig, load_config
from multitask.errors import ConfigError
from multitask.spec import ModelSpec, Task


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Arguments:
    """Those of a door that takes a configuration."""

    config: Path | None
    settings: cli.Settings


def test_the_default_is_the_clothing_model() -> None:
    config = Config()
    assert config.label_columns() == ("cc3", "polka dot", "floral", "checker")
    assert config.tasks["category"].top_k == 2
    assert (config.model.backbone, config.model.weights, config.model.freeze) == ("vgg16", "imagenet", "all")


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = Config(
        tasks={"kids": TaskConfig(kind="multilabel", columns=("kids",), threshold=0.4)},
        fit=FitConfig(learning_rate=3e-4, seed=7),
    )
    config.save(tmp_path / "c.toml")
    assert load_config(tmp_path / "c.toml") == config


def test_options_of_a_backbone_travel_from_flag_to_file_to_spec(tmp_path: Path) -> None:
    argv = ["--backbone", "mobilenet", "--model.backbone-options", "alpha", "0.25", "depth_multiplier", "1"]
    config = cli.parse_with_config(Arguments, "multitask.train", "", argv).settings
    assert config.model.backbone_options == {"alpha": 0.25, "depth_multiplier": 1}
    config.save(tmp_path / "c.toml")
    assert load_config(tmp_path / "c.toml") == config
    argv = ["--config", str(tmp_path / "c.toml"), "--model.backbone-options.alpha", "0.5"]
    changed = cli.parse_with_config(Arguments, "multitask.train", "", argv).settings
    assert changed.model.backbone_options == {"alpha": 0.5, "depth_multiplier": 1}
    spec = changed.model_spec({"category": ("a", "b"), "tags": ("polka dot", "floral", "checker")})
    assert spec.backbone_options == changed.model.backbone_options
    spec.save(tmp_path / "spec.json")
    assert ModelSpec.load(tmp_path / "spec.json") == spec


def test_a_single_column_may_be_written_as_column(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", '[tasks.category]\nkind = "multiclass"\ncolumn = "cc3"\n')
    assert load_config(path).tasks["category"].columns == ("cc3",)


def test_all_wrong_settings_are_named_together_with_the_nearest_key(tmp_path: Path) -> None:
    text = """
[fit]
epoch = 3
batch_size = "many"
[model]
backbone = "vgg61"
[tasks.tags]
kind = "multilabel"
columns = ["a"]
los_weight = 2
"""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.toml", text))
    message = str(caught.value)
    assert "c.toml" in message
    assert 'fit.epoch: unknown key. Did you mean "epochs"?' in message
    assert "fit.batch_size: expected a valid integer" in message
    assert "received 'many'" in message
    assert 'model.backbone: expected a known backbone, received "vgg61". Did you mean "vgg1' in message
    assert 'tasks.tags.los_weight: unknown key. Did you mean "loss_weight"?' in message


@pytest.mark.parametrize(("text", "problem"), [("[fit\n", "is not TOML"), ("wrong = 1\n", "wrong: unknown key")])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_config(write(tmp_path / "c.toml", text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "multiclass", "columns": ("a", "b")},
        {"kind": "multiclass", "columns": ("a",), "threshold": 0.5},
        {"kind": "multilabel", "columns": ("a", "a")},
        {"kind": "multilabel", "columns": ("a",), "top_k": 2},
        {"kind": "multilabel", "columns": ()},
        {"kind": "multiclass", "columns": ("a",), "classes": ("x", "y"), "top_k": 3},
        {"kind": "regression", "columns": ("a",), "threshold": 0.5},
        {"kind": "regression", "columns": ("a",), "classes": ("b",)},
        {"kind": "ranking", "columns": ("a",)},
    ],
)
def test_fields_that_do_not_fit_the_kind_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaskConfig(**fields)


@pytest.mark.parametrize("name", ["two words", "1st", "status", "image_ok", "naïve"])
def test_a_task_name_that_cannot_be_an_output_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="task name"):
        Config(tasks={name: TaskConfig(kind="multilabel", columns=("a",))})


def test_tasks_that_would_write_the_same_column_are_refused() -> None:
    config = Config(
        tasks={
            "a1": TaskConfig(kind="multiclass", columns=("x",)),
            "a": TaskConfig(kind="multiclass", columns=("y",), top_k=2),
        }
    )
    with pytest.raises(ConfigError, match='"a1"'):
        config.model_spec({"a1": ("p", "q"), "a": ("p", "q")})


def test_splits_must_leave_rows_to_train_on() -> None:
    with pytest.raises(ValidationError, match="must leave"):
        Config(data={"validation": 0.5, "test": 0.5})


def test_the_fingerprint_changes_with_every_field(clothing_spec: ModelSpec) -> None:
    others = [
        clothing_spec.model_copy(update={"dropout": 0.5}),
        clothing_spec.model_copy(update={"backbone_options": {"alpha": 0.25}}),
        clothing_spec.model_copy(update={"tasks": clothing_spec.tasks[:1]}),
        clothing_spec.model_copy(update={"image": clothing_spec.image.model_copy(update={"resize": "pad"})}),
    ]
    assert len({spec.fingerprint() for spec in (clothing_spec, *others)}) == 5
    assert clothing_spec.fingerprint() == clothing_spec.model_copy().fingerprint()


def test_a_spec_survives_its_file(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    clothing_spec.save(tmp_path / "spec.json")
    assert ModelSpec.load(tmp_path / "spec.json") == clothing_spec


def test_thresholds_are_the_trained_ones_then_the_configured_one_then_a_half() -> None:
    tags = {"name": "t", "kind": "multilabel", "columns": ("a", "b"), "classes": ("a", "b")}
    assert Task(**tags, thresholds=(0.2, 0.3), threshold=0.7).settled_thresholds() == (0.2, 0.3)
    assert Task(**tags, threshold=0.7).settled_thresholds() == (0.7, 0.7)
    assert Task(**tags).settled_thresholds() == (0.5, 0.5)
