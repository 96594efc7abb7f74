"""model and backbone: one network, cut anywhere, gives the same scores; weights come from where they are said to."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.network.backbone import build_backbone
from multitask.network.model import boundaries, build_network, load_network
from multitask.spec import ModelSpec

pytestmark = pytest.mark.tensor

CLASSES = {"category": ("a", "b", "c"), "tags": ("polka dot", "floral", "checker")}


def make_spec(size: int = 32, **model: object) -> ModelSpec:
    model = {"backbone": "small_cnn", "weights": "random", "image_size": (size, size), **model}
    return Config(model=model).model_spec(CLASSES)


def images(size: int = 32, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("freeze", ["all", "none", "block2_pool"])
@pytest.mark.parametrize("pooling", ["flatten", "avg", "max"])
def test_the_two_sides_of_a_cut_give_what_the_whole_gives(freeze: str, pooling: str) -> None:
    network = build_network(make_spec(freeze=freeze, pooling=pooling))
    logits = network.trainable(network.frozen(images()))
    scores = network.whole(images())
    np.testing.assert_allclose(scores["category"], keras.ops.softmax(logits["category"]), atol=1e-6)
    np.testing.assert_allclose(scores["tags"], keras.ops.sigmoid(logits["tags"]), atol=1e-6)
    assert network.whole.output_names == ["category", "tags"]


def test_what_is_trained_depends_on_the_boundary_alone() -> None:
    trained = {
        freeze: len(build_network(make_spec(freeze=freeze)).trainable.trainable_weights)
        for freeze in ("all", "block2_pool", "none")
    }
    assert trained == {"all": 4, "block2_pool": 8, "none": 12}
    assert not build_network(make_spec(freeze="block2_pool")).frozen.trainable_weights


@pytest.mark.parametrize("name", ["vgg19", "resnet50", "mobilenetv3large", "efficientnetb0", "convnexttiny"])
def test_every_backbone_takes_bytes_and_answers_every_task(name: str) -> None:
    network = build_network(make_spec(64, backbone=name, pooling="avg"))
    scores = network.whole(images(64, 2))
    assert scores["category"].shape == (2, 3)
    np.testing.assert_allclose(np.sum(scores["category"], axis=1), 1, atol=1e-5)
    assert np.isfinite(scores["tags"]).all()


@pytest.mark.parametrize(("name", "boundary"), [("vgg16", "block4_pool"), ("resnet50", "conv4_block6_out")])
def test_a_real_backbone_can_be_cut_before_its_last_block(name: str, boundary: str) -> None:
    whole = build_network(make_spec(64, backbone=name))
    cut = build_network(make_spec(64, backbone=name, freeze=boundary))
    cut.whole.set_weights(whole.whole.get_weights())
    np.testing.assert_allclose(cut.whole(images(64))["tags"], whole.whole(images(64))["tags"], atol=1e-5)


def test_a_layer_that_is_bypassed_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        build_network(make_spec(64, backbone="resnet50v2", freeze="conv4_block1_1_conv"))
    assert "is not a layer through which everything flows" in str(caught.value)
    valid = str(caught.value).split("Valid: ")[1]
    assert "conv4_block1_out" in valid
    assert "conv4_block1_1_conv" not in valid


def test_an_unknown_layer_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r'not a layer of it.*Did you mean "block2_pool"'):
        build_network(make_spec(freeze="block2_pol"))


def test_boundaries_of_a_chain_are_all_its_layers() -> None:
    names = boundaries(build_backbone(make_spec()))
    assert names[:3] == ["scaling", "block1_conv", "block1_pool"]


def test_batch_statistics_stay_those_of_the_backbone_while_fine_tuning() -> None:
    network = build_network(make_spec(64, backbone="resnet50", freeze="conv5_block2_out"))
    norms = [
        layer
        for layer in network.trainable.get_layer("rest").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.get_weights() for layer in norms]
    features = np.asarray(network.frozen(images(64))) * 3
    network.trainable(features, training=True)
    assert norms
    for layer, weights in zip(norms, before, strict=True):
        for now, then in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(now, then)


def test_batch_statistics_are_learned_from_scratch() -> None:
    network = build_network(make_spec(64, backbone="mobilenetv3small", freeze="none"))
    norms = [
        layer
        for layer in network.trainable.get_layer("rest").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert all(layer.trainable for layer in norms)


def test_random_weights_of_vgg16_keep_the_scale_of_the_images() -> None:
    network = build_network(make_spec(48, backbone="vgg16"))
    kernel = network.frozen.get_layer("block5_conv2").kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.05)
    assert 1 < np.asarray(network.frozen(images(48))).std() < 1e4


def test_a_model_saved_in_float32_answers_nearly_the_same_in_bfloat16(tmp_path: Path) -> None:
    network = build_network(make_spec())
    network.whole.save(tmp_path / "model.keras")
    exact = load_network(tmp_path / "model.keras", network.spec)
    fast = load_network(tmp_path / "model.keras", network.spec, "bfloat16")
    np.testing.assert_array_equal(exact.whole(images())["category"], network.whole(images())["category"])
    np.testing.assert_allclose(fast.whole(images())["category"], network.whole(images())["category"], atol=0.02)
    assert str(fast.frozen.output.dtype) == "bfloat16"
    assert str(fast.whole(images())["category"].dtype).endswith("float32'>")


@pytest.mark.parametrize("name", ["plain.keras", "plain.h5", "plain.weights.h5"])
def test_weights_are_read_from_a_local_file(tmp_path: Path, name: str) -> None:
    plain = keras.applications.VGG16(include_top=False, weights=None, input_shape=(48, 48, 3))
    keras.utils.set_random_seed(3)
    plain.set_weights([np.random.default_rng(3).normal(0, 0.01, value.shape) for value in plain.get_weights()])
    plain.save_weights(tmp_path / name) if name.endswith(".weights.h5") else plain.save(tmp_path / name)
    network = build_network(make_spec(48, backbone="vgg16", weights=str(tmp_path / name)))
    for ours, theirs in zip(network.frozen.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_our_own_saved_model_is_a_weights_file_too(tmp_path: Path) -> None:
    first = build_network(make_spec())
    first.whole.save(tmp_path / "model.keras")
    second = build_network(make_spec(weights=str(tmp_path / "model.keras"), freeze="block2_pool"))
    np.testing.assert_array_equal(
        second.frozen.get_layer("block2_conv").kernel, first.frozen.get_layer("block2_conv").kernel
    )


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    keras.applications.VGG19(include_top=False, weights=None, input_shape=(48, 48, 3)).save(tmp_path / "other.keras")
    with pytest.raises(ConfigError, match=r"model\.weights"):
        build_network(make_spec(48, backbone="resnet50", weights=str(tmp_path / "other.keras")))


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_a_missing_or_broken_weights_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w\.h5"):
        build_network(make_spec(weights=str(tmp_path / "w.h5")))


def test_images_too_small_for_a_backbone_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size"):
        build_network(make_spec(16, backbone="vgg16"))
