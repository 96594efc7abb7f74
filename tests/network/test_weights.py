"""backbone and weights: the features of keras.applications, built and fed as Keras documents; random ones usable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from multitask.backbones import BACKBONES
from multitask.config import Config
from multitask.errors import ConfigError
from multitask.network.backbone import build_backbone, construct_options
from multitask.network.model import Network, build_network
from multitask.network.weights import ImagenetUnreachable, all_layers, imagenet_weights, set_weights
from multitask.spec import ModelSpec

pytestmark = pytest.mark.tensor

CLASSES = {"category": ("a", "b", "c"), "tags": ("polka dot", "floral", "checker")}
# A real file of Keras, where the machine has it.
MOBILENET = Path(
    os.environ.get("MULTITASK_MOBILENET", Path(__file__).parents[3] / "shared/weights/mobilenet_2_5_224_tf_no_top.h5")
)

# Every input scaling, every way to name layers, layers nested in layers, and weights that are not kernels.
FAMILIES = {
    "vgg16": (32, {}),
    "resnet50": (32, {}),
    "resnet50v2": (32, {}),
    "mobilenet": (32, {"alpha": 0.25}),
    "mobilenetv2": (32, {"alpha": 0.35}),
    "mobilenetv3small": (32, {"minimalistic": True}),
    "efficientnetb0": (32, {}),
    "efficientnetv2b0": (32, {}),
    "densenet121": (32, {}),
    "nasnetmobile": (32, {}),
    "convnexttiny": (32, {}),
    "xception": (71, {}),
    "inceptionv3": (75, {}),
}


def make_spec(name: str, weights: str, **model: object) -> ModelSpec:
    size, options = FAMILIES.get(name, (32, {}))
    settings = {"image_size": (size, size), "backbone_options": options, "pooling": "avg", **model}
    return Config(model={"backbone": name, "weights": weights, **settings}).model_spec(CLASSES)


def images(size: int, count: int = 4) -> np.ndarray:
    """Return pictures that differ as photos do: in colour, contrast and coarse structure."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, size // 4 + 1, size // 4 + 1, 1)))[:, :size, :size].astype(np.uint8)


def constructor(name: str) -> type:
    return getattr(keras.applications, BACKBONES[name][0])


def keras_features(name: str, weights: str | None, spec: ModelSpec) -> np.ndarray:
    """Return the features of Keras' own model, fed as its documentation says."""
    size = spec.image.height
    reference = constructor(name)(
        include_top=False, weights=weights, input_shape=(size, size, 3), **spec.backbone_options
    )
    preprocess = sys.modules[constructor(name).__module__].preprocess_input
    return np.mean(reference(preprocess(images(size).astype(np.float32))), axis=(1, 2))


def assert_same_features(found: object, expected: np.ndarray) -> None:
    assert expected.std() > 0
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def weights_file(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file of weights laid out as Keras lays out its own, with nothing left as it is initialised."""
    name, path = request.param, tmp_path / "weights.h5"
    size, options = FAMILIES[name]
    model = constructor(name)(include_top=False, weights=None, input_shape=(size, size, 3), **options)
    random = np.random.default_rng(0)
    for layer in all_layers(model):
        values = [value + 0.3 * np.std(value) * random.normal(size=value.shape) for value in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [random.uniform(0.5, 1.5, value.shape) for value in values]
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            # As in the files of EfficientNet.
            values = [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2, np.array(0)]
        set_weights(layer, values)
    model.save(path)
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights_file"), [(name, name) for name in FAMILIES], indirect=["weights_file"])
def test_features_are_those_of_keras_applications(
    name: str, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(weights_file))
    spec = make_spec(name, "imagenet")
    network = build_network(spec)
    expected = keras_features(name, "imagenet", spec)
    assert_same_features(network.frozen(images(spec.image.height)), expected)
    if name in ("efficientnetb0", "xception"):
        by_path = build_network(make_spec(name, str(weights_file)))
        assert by_path.frozen_digest() == network.frozen_digest()


def test_the_backbones_are_the_classifiers_of_keras_applications() -> None:
    classifiers = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {name for name, _ in BACKBONES.values()} - {""} == classifiers
    assert set(FAMILIES) < set(BACKBONES)


@pytest.mark.parametrize("name", [name for name, (constructor, _) in BACKBONES.items() if constructor])
def test_every_backbone_is_fed_as_its_own_module_says(name: str) -> None:
    backbone = build_backbone(make_spec("small_cnn", "random"))
    from multitask.network.backbone import _scaled

    scaled = keras.Model(backbone.input, _scaled(backbone.input, BACKBONES[name][1]))
    expected = sys.modules[constructor(name).__module__].preprocess_input(images(32).astype(np.float32))
    np.testing.assert_allclose(scaled(images(32)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not MOBILENET.is_file(), reason=f"no MobileNet weights at {MOBILENET} ($MULTITASK_MOBILENET)")
def test_real_mobilenet_weights_by_path_and_through_the_cache_of_keras(tmp_path: Path) -> None:
    spec = make_spec("mobilenet", str(MOBILENET), image_size=(224, 224))
    by_path = build_network(spec)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / MOBILENET.name).symlink_to(MOBILENET)
    script = """
import numpy as np
from tests.network.test_weights import assert_same_features, build_network, images, keras_features, make_spec
spec = make_spec("mobilenet", "imagenet", image_size=(224, 224))
network = build_network(spec)
assert_same_features(network.frozen(images(224)), keras_features("mobilenet", "imagenet", spec))
print(network.frozen_digest())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == by_path.frozen_digest()


def test_weights_made_with_other_options_are_refused(tmp_path: Path) -> None:
    constructor("mobilenet")(include_top=False, weights=None, input_shape=(32, 32, 3)).save(tmp_path / "one.keras")
    with pytest.raises(ConfigError, match=r"one\.keras.*expected shapes.*backbone_options"):
        build_network(make_spec("mobilenet", str(tmp_path / "one.keras")))


def test_options_of_a_backbone_are_its_own() -> None:
    assert construct_options("mobilenet", {"alpha": 0.5}) == ["alpha", "depth_multiplier", "dropout"]
    with pytest.raises(ConfigError, match=r'no option "alhpa".*Did you mean "alpha"'):
        build_network(make_spec("mobilenet", "random", backbone_options={"alhpa": 0.5}))
    with pytest.raises(ConfigError, match=r"vgg16 has no option.*expected none"):
        build_network(make_spec("vgg16", "random", backbone_options={"weights": "imagenet"}))
    with pytest.raises(ConfigError, match=r"small_cnn has no option"):
        build_network(make_spec("small_cnn", "random", backbone_options={"alpha": 1}))
    with pytest.raises(ConfigError, match="mobilenet cannot be built so"):
        build_network(make_spec("mobilenet", "random", backbone_options={"alpha": "half"}))
    with pytest.raises(ConfigError, match="alpha"):
        imagenet_weights("mobilenet", options={"alpha": 0.3})


@pytest.mark.parametrize(
    "name",
    [
        "resnet50v2",
        "mobilenet",
        "mobilenetv3small",
        "efficientnetb0",
        "convnexttiny",
        "xception",
        "small_cnn",
        "inception_small",
    ],
)
def test_random_weights_give_features_that_tell_images_apart(name: str) -> None:
    spec = make_spec(name, "random")
    first = build_network(spec)
    features = np.asarray(first.frozen(images(spec.image.height, 16)), np.float64)
    assert 1e-6 < features.std() < 1e5
    # A random ReLU is dead for all of a few images now and then; most are not.
    assert np.mean(features.std(axis=0) > 1e-2 * np.abs(features).mean(axis=0)) > 0.5


@pytest.mark.parametrize("name", ["convnexttiny", "xception", "small_cnn"])
def test_random_weights_are_the_same_whatever_the_seed_of_the_run(name: str) -> None:
    digests = set()
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        digests.add(build_network(make_spec(name, "random")).frozen_digest())
    assert len(digests) == 1


def test_random_kernels_are_he_scaled_whatever_their_kind() -> None:
    network = build_network(make_spec("mobilenet", "random", backbone_options={}))
    depthwise = network.frozen.get_layer("conv_dw_12").kernel.numpy()
    assert depthwise.std() == pytest.approx(np.sqrt(2 / 9), rel=0.1)
    pointwise = network.frozen.get_layer("conv_pw_12").kernel.numpy()
    assert pointwise.std() == pytest.approx(np.sqrt(2 / pointwise.shape[2]), rel=0.05)


def _plain(network: Network, path: Path, size: int) -> None:
    network.whole.save(path.with_suffix(".keras"))
    np.savez(path.with_suffix(".npz"), images=images(size), tags=network.whole(images(size))["tags"])


@pytest.mark.slow
def test_a_saved_model_opens_where_only_keras_is_known(tmp_path: Path) -> None:
    for name in ("small_cnn", "vgg16", "densenet121", "mobilenetv3small", "efficientnetb0", "convnexttiny"):
        spec = make_spec(name, "random")
        _plain(build_network(spec), tmp_path / name, spec.image.height)
    script = f"""
import glob, sys
import keras, numpy as np
for path in glob.glob("{tmp_path}/*.keras"):
    data = np.load(path.replace(".keras", ".npz"))
    answer = keras.saving.load_model(path)(data["images"])
    np.testing.assert_allclose(answer["tags"], data["tags"], atol=1e-5)
    assert set(answer) == {{"category", "tags"}}
assert not [name for name in sys.modules if name.startswith("multitask")]
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 0, done.stderr


def test_weights_that_are_set_reach_the_scaling_of_efficientnet() -> None:
    spec = make_spec("efficientnetb0", "random")
    first, second = build_network(spec), build_network(spec)
    layer = next(layer for layer in all_layers(first.frozen) if isinstance(layer, keras.layers.Normalization))
    set_weights(layer, [np.array([0.5, 0.4, 0.3]), np.array([0.1, 0.2, 0.3]), np.array(0)])
    set_weights(second.whole, first.whole.get_weights())
    assert_same_features(second.frozen(images(32)), np.asarray(first.frozen(images(32))))


def test_imagenet_out_of_reach_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure on https://...: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(file_utils, "get_file", refuse)
    with pytest.raises(ImagenetUnreachable, match="--weights random"):
        imagenet_weights("vgg16")


def test_a_backbone_without_imagenet_weights_says_so() -> None:
    with pytest.raises(ConfigError, match='weights = "random"'):
        build_network(make_spec("small_cnn", "imagenet"))
