"""Backbones that come from files: the features that the model gives alone, wherever it is cut, and clear refusals."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from multitask.backbones import read_architecture
from multitask.config import Config
from multitask.errors import ConfigError
from multitask.network.model import build_network, load_network
from multitask.prediction.trained import KerasPredictor
from multitask.publishing.exporting import export_run
from multitask.training.fitting import fit

pytestmark = pytest.mark.tensor

CLASSES = {"category": ("a", "b"), "tags": ("polka dot", "floral", "checker")}
L = keras.layers


def _own(size: int | None = 32) -> Any:
    """A model with a branch, unnamed layers, normalisation and a model within it."""
    inner = keras.Sequential([keras.Input((None, None, 16)), L.Conv2D(16, 3, padding="same"), L.ReLU()])
    image = keras.Input((size, size, 3))
    first = L.BatchNormalization()(L.Conv2D(16, 3, strides=2, padding="same")(L.Rescaling(1 / 255)(image)))
    joined = L.Add(name="joined")([first, inner(first)])
    return keras.Model(image, L.Conv2D(8, 3, strides=2, activation="relu", name="last")(joined))


def _save(model: Any, path: Path) -> str:
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.3, value.shape) for value in model.get_weights()])
    model.compile("adam", "mse")
    model.save(path)
    return str(path)


def _config(backbone: str, **model: Any) -> Config:
    return Config(model={"backbone": backbone, "image_size": (32, 32), "pooling": "avg", **model})


IMAGES = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("freeze", ["all", "joined", "none"])
@pytest.mark.parametrize("size", [32, None])
def test_a_keras_file_gives_the_features_of_its_model_wherever_it_is_cut(
    tmp_path: Path, freeze: str, size: int | None
) -> None:
    model = _own(size)
    spec = _config(_save(model, tmp_path / "mine.keras"), freeze=freeze).model_spec(CLASSES)
    assert (spec.backbone, spec.freeze) == ("mine", freeze)
    network = build_network(spec)
    found = network.members[0].get_layer("rest")(network.frozen(IMAGES))
    np.testing.assert_allclose(found, np.mean(model(IMAGES.astype("float32")), axis=(1, 2)), rtol=1e-4)


def test_a_sequential_model_a_scaling_and_a_lower_precision_are_taken(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((32, 32, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(5)])
    path = _save(model, tmp_path / "line.keras")
    spec = _config(path, backbone_options={"scaling": "tf"}).model_spec(CLASSES)
    expected = model(IMAGES / 127.5 - 1)
    np.testing.assert_allclose(build_network(spec).frozen(IMAGES), expected, rtol=1e-4, atol=1e-4)
    low = build_network(spec, "bfloat16")
    assert low.frozen.layers[-2].compute_dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(low.frozen(IMAGES), np.float32), expected, rtol=0.1, atol=0.1)


def test_a_run_on_a_keras_file_needs_the_file_no_more(
    make_config: Callable[..., Config], tmp_path: Path, sample: Path
) -> None:
    path = _save(_own(), tmp_path / "mine.keras")
    config = make_config(backbone=path, weights="imagenet", pooling="avg", epochs=2)
    fine_tune = {"freeze": "joined", "epochs": 1}
    run = fit(Config(**{**config.model_dump(), "fine_tune": fine_tune}), "mine", root=tmp_path)
    Path(path).unlink()
    assert (export_run(run)[0] / "saved_model.pb").is_file()
    assert load_network(run.folder / "model.keras", run.spec).spec.freeze == "joined"
    assert KerasPredictor.of_run(run).spec == run.spec


def test_other_architectures_have_other_features(tmp_path: Path) -> None:
    from multitask.features.computing import store_key

    keys = set()
    for activation in ("relu", "tanh"):
        model = keras.Sequential([keras.Input((32, 32, 3)), L.Conv2D(4, 3, activation=activation, name="conv")])
        path = _save(model, tmp_path / "same_name.keras")
        keys.add(store_key(build_network(_config(path).model_spec(CLASSES)), "float32"))
    assert len(keys) == 2


def _lambda(path: Path) -> str:
    return _save(keras.Sequential([keras.Input((32, 32, 3)), L.Lambda(lambda x: x + 1), L.Conv2D(4, 3)]), path)


def _two_outputs(path: Path) -> str:
    image = keras.Input((32, 32, 3))
    return _save(keras.Model(image, [L.Conv2D(4, 3)(image), L.Conv2D(5, 3)(image)]), path)


def _grey(path: Path) -> str:
    return _save(keras.Sequential([keras.Input((32, 32, 1)), L.Conv2D(4, 3)]), path)


def _larger(path: Path) -> str:
    return _save(keras.Sequential([keras.Input((64, 64, 3)), L.Conv2D(4, 3)]), path)


def _no_zip(path: Path) -> str:
    path.write_bytes(b"no zip")
    return str(path)


def _no_model(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Nothing", "config": {}, "module": "nowhere"}))
    return str(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_lambda, "Lambda"),
        (_two_outputs, "one input"),
        (_grey, "one input"),
        (_larger, "takes other images"),
        (_no_zip, "holds no model"),
        (_no_model, "cannot be built"),
        (str, "holds no model"),
    ],
)
def test_what_is_no_backbone_is_explained(make: Callable[[Path], str], problem: str, tmp_path: Path) -> None:
    path = make(tmp_path / "bad.keras")
    with pytest.raises(ConfigError, match=problem) as refused:
        build_network(_config(path).model_spec(CLASSES))
    assert "bad" in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("options", [{"alpha": 0.25}, {"scaling": "inverted"}])
def test_other_options_of_a_file_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one option, scaling"):
        read_architecture(tmp_path / "any.keras", options)


@pytest.mark.slow
def test_a_preset_of_kerashub_is_a_backbone_with_its_own_scaling(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    hub = pytest.importorskip("keras_hub", reason="the extra hub is not installed")
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 32],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        use_pre_activation=False,
        image_shape=(None, None, 3),
    )
    converter = hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=[0.017, 0.0175, 0.0174], offset=[-2.1, -2.0, -1.8]
    )
    task = hub.models.ResNetImageClassifier(
        backbone=backbone, num_classes=3, preprocessor=hub.models.ResNetImageClassifierPreprocessor(converter)
    )
    task.save_to_preset(str(tmp_path / "preset"))
    config = make_config(backbone=str(tmp_path / "preset"), weights="imagenet", pooling="avg", epochs=1)
    network = build_network(config.model_spec(CLASSES))
    expected = backbone(IMAGES * np.array([0.017, 0.0175, 0.0174]) + np.array([-2.1, -2.0, -1.8]))
    np.testing.assert_allclose(network.frozen(IMAGES), np.mean(expected, axis=(1, 2)), rtol=1e-3, atol=1e-4)
    run = fit(config, "hub", root=tmp_path)
    assert (export_run(run)[0] / "saved_model.pb").is_file()
