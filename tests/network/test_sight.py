"""sight: what the network sees is the same wherever it is cut, and from stored features or from files."""

from __future__ import annotations

import numpy as np
import pytest

from multitask.network.model import build_network
from multitask.network.preprocessing import preprocess_batch
from multitask.network.sight import SIZE, Sight
from multitask.spec import ModelSpec
from tests.conftest import photo

pytestmark = pytest.mark.tensor


def test_it_does_not_depend_on_where_the_network_is_cut_or_how_it_pools(clothing_spec: ModelSpec) -> None:
    files = [photo(seed) for seed in range(5)]
    small = {"backbone": "small_cnn", "weights": "random"}
    first = build_network(clothing_spec.model_copy(update={**small, "freeze": "all", "pooling": "flatten"}))
    expected = Sight(first).of_files(files)
    assert expected.shape == (5, SIZE)
    assert np.ptp(expected, axis=0).min() > 0
    boundary = first.frozen.layers[-3].name
    for freeze, pooling in (("all", "avg"), ("none", "flatten"), (boundary, "flatten"), (boundary, "avg")):
        other = build_network(clothing_spec.model_copy(update={**small, "freeze": freeze, "pooling": pooling}))
        weights = {weight.path: weight for side in (first.frozen,) for weight in side.weights}
        for weight in [*other.frozen.weights, *other.members[0].get_layer("rest").weights]:
            weight.assign(weights[weight.path])
        np.testing.assert_allclose(Sight(other).of_files(files), expected, rtol=1e-3, atol=1e-4)


def test_a_file_that_is_no_image_is_not_seen_and_changes_no_other(clothing_spec: ModelSpec) -> None:
    network = build_network(clothing_spec.model_copy(update={"backbone": "small_cnn", "weights": "random"}))
    found = Sight(network).of_files([photo(1), b"none", photo(2)])
    np.testing.assert_allclose(found[[0, 2]], Sight(network).of_files([photo(1), photo(2)]), rtol=1e-4, atol=1e-5)
    assert np.isnan(found[1]).all()
    images, _ = preprocess_batch([photo(1)], network.spec.image)
    stored = network.frozen(images, training=False)
    np.testing.assert_allclose(Sight(network).of_features(stored), found[:1], rtol=1e-4, atol=1e-5)
