"""features: each image once; nothing stale, nothing half-written, nothing beyond the budget."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from multitask.config import Config
from multitask.data.archives import Archive, open_archive
from multitask.errors import ConfigError
from multitask.features.computing import compute_features, store_key
from multitask.features.stores import MOST_CHUNKS, FeatureStore, make_room
from multitask.network.model import Network, build_network
from multitask.network.preprocessing import preprocess
from tests.conftest import photo, write_zip

pytestmark = pytest.mark.tensor

CLASSES = {"category": ("a", "b"), "tags": ("polka dot", "floral", "checker")}


def make_network(**model: object) -> Network:
    model = {"backbone": "small_cnn", "weights": "random", "image_size": (16, 16), **model}
    return build_network(Config(model=model).model_spec(CLASSES))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    members = {f"{number}.jpg": photo(number) for number in range(10)}
    return open_archive(write_zip(tmp_path / "a.zip", members))


def digests(archive: Archive) -> dict[str, str]:
    return {hashlib.sha256(archive[name]).hexdigest(): name for name in archive}


def compute(store: FeatureStore, network: Network, archive: Archive, images: dict[str, str]) -> list[str]:
    return compute_features(store, network.frozen, images, archive, network.spec.image, 4)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "bfloat16"])
def test_features_come_back_as_they_were_stored(tmp_path: Path, dtype: str) -> None:
    with FeatureStore(tmp_path, "key", (3,), dtype) as store:
        store.add(["a", "b"], np.array([[1, 2, 3], [4, 5, 6]]))
        store.add(["c"], np.array([[7, 8, 9]]))
    with FeatureStore(tmp_path, "key", (3,), dtype) as store:
        fetched = store.gather(["c", "a", "b"])(np.array([2, 0, 1, 0]))
    assert fetched.dtype.name == dtype
    assert fetched.astype(int).tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3], [7, 8, 9]]


def test_stored_features_are_those_of_the_frozen_network(tmp_path: Path, archive: Archive) -> None:
    network, images = make_network(), digests(archive)
    with FeatureStore(tmp_path / "f", "key", network.frozen.output.shape[1:], "float32") as store:
        assert compute(store, network, archive, images) == []
        fetched = store.gather(list(images))(np.arange(10))
    pixels = np.stack([preprocess(archive[name], network.spec.image) for name in images.values()])
    np.testing.assert_allclose(fetched, network.frozen(pixels), rtol=1e-4, atol=1e-5)


def test_a_second_pass_computes_nothing_and_an_edited_image_anew(tmp_path: Path, archive: Archive) -> None:
    network, images = make_network(), digests(archive)
    shape, done = network.frozen.output.shape[1:], []
    with FeatureStore(tmp_path / "f", "key", shape, "float32") as store:
        compute(store, network, archive, images)
        compute_features(store, network.frozen, images, archive, network.spec.image, 4, done.append)
        assert done == []
    edited = open_archive(write_zip(tmp_path / "b.zip", {"0.jpg": photo(0), "1.jpg": photo(99)}))
    with FeatureStore(tmp_path / "f", "key", shape, "float32") as store:
        compute_features(store, network.frozen, digests(edited), edited, network.spec.image, 4, done.append)
        assert sum(done) == 1


def test_an_undecodable_image_is_reported_and_the_others_are_stored(tmp_path: Path) -> None:
    archive = open_archive(write_zip(tmp_path / "a.zip", {"good.jpg": photo(1), "bad.jpg": b"x", "also.jpg": photo(2)}))
    network, images = make_network(), digests(archive)
    with FeatureStore(tmp_path / "f", "key", network.frozen.output.shape[1:], "float32") as store:
        failed = compute(store, network, archive, images)
        assert [images[digest] for digest in failed] == ["bad"]
        assert sum(digest in store for digest in images) == 2


def test_the_key_covers_everything_that_features_depend_on(tmp_path: Path) -> None:
    base = make_network()
    others = [
        make_network(freeze="block3_pool"),
        make_network(pooling="avg"),
        make_network(image_size=(16, 24)),
        make_network(resize="pad"),
        make_network(backbone="mobilenet", image_size=(32, 32), backbone_options={"alpha": 0.25}, freeze="conv1_relu"),
        make_network(backbone="mobilenet", image_size=(32, 32), backbone_options={"alpha": 0.5}, freeze="conv1_relu"),
    ]
    base.whole.save(tmp_path / "w.keras")
    changed = make_network()
    changed.frozen.set_weights([value * 1.01 for value in changed.frozen.get_weights()])
    keys = [store_key(network, "float32") for network in (base, *others, changed)] + [store_key(base, "bfloat16")]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_cover_what_features_do_not_depend_on(tmp_path: Path) -> None:
    base = make_network()
    base.whole.save(tmp_path / "w.keras")
    same_weights = make_network(weights=str(tmp_path / "w.keras"))
    assert store_key(base, "float32") == store_key(make_network(dropout=0.5), "float32")
    assert store_key(base, "float32") == store_key(same_weights, "float32")


def test_a_chunk_that_a_kill_cut_short_does_not_count(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, "key", (3,), "float32") as store:
        store.add(["a"], np.ones((1, 3)))
        store.add(["b"], np.ones((1, 3)))
    listing = next(path for path in (tmp_path / "key").glob("*.sha256") if path.read_text() == "b")
    listing.unlink()
    (tmp_path / "key" / ".half.npy").write_bytes(b"\x93NUM")
    with FeatureStore(tmp_path, "key", (3,), "float32") as store:
        assert "a" in store
        assert "b" not in store


def test_a_failing_disk_leaves_no_chunk_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with FeatureStore(tmp_path, "key", (3,), "float32") as store:
        monkeypatch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            store.add(["a"], np.ones((1, 3)))
        assert "a" not in store
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["in-use"]


def test_a_chunk_whose_rows_are_gone_or_damaged_is_computed_anew(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, "key", (3,), "float32") as store:
        for name in "abcd":
            store.add([name], np.ones((1, 3)))
    files = {path.read_text(): path.with_suffix(".npy") for path in (tmp_path / "key").glob("*.sha256")}
    files["a"].unlink()
    files["b"].write_bytes(files["b"].read_bytes()[:-4])
    np.save(files["c"], np.ones((1, 4), np.float32))
    with FeatureStore(tmp_path, "key", (3,), "float32") as store:
        assert [name in store for name in "abcd"] == [False, False, False, True]
        assert store.gather(["d"])(np.array([0])).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_many_small_chunks_become_few_and_keep_their_rows(tmp_path: Path, dtype: str) -> None:
    names = [f"d{number}" for number in range(3 * MOST_CHUNKS)]
    with FeatureStore(tmp_path, "key", (2,), dtype) as store:
        for number, name in enumerate(names):
            store.add([name], np.array([[number % 100, number // 100]]))
    with FeatureStore(tmp_path, "key", (2,), dtype) as store:
        fetched = store.gather(names)(np.arange(len(names))[::-1]).astype(int)
    assert fetched.tolist() == [[number % 100, number // 100] for number in range(len(names))][::-1]
    assert len(list((tmp_path / "key").glob("*.npy"))) == 1


def test_chunks_are_not_joined_under_another_process(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, "key", (2,), "uint8") as store:
        for number in range(MOST_CHUNKS + 5):
            store.add([f"d{number}"], np.zeros((1, 2)))
        with FeatureStore(tmp_path, "key", (2,), "uint8") as other:
            assert "d7" in other
        assert len(list((tmp_path / "key").glob("*.npy"))) == MOST_CHUNKS + 5


def test_more_chunks_than_a_process_may_open_files_are_read(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with FeatureStore(tmp_path, "key", (2,), "uint8") as store:
        store.add(["first"], np.array([[1, 2]]))
    first = next((tmp_path / "key").glob("*.npy"))
    for number in range(400):
        name = tmp_path / "key" / f"{number:032x}"
        shutil.copy(first, name.with_suffix(".npy"))
        name.with_suffix(".sha256").write_text(f"d{number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, limits[0]), limits[1]))
    try:
        with FeatureStore(tmp_path, "key", (2,), "uint8") as store:
            assert store.gather(["d399"])(np.array([0])).tolist() == [[1, 2]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_hundred_thousand_rows_are_opened_and_found_quickly(tmp_path: Path) -> None:
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100_000)]
    with FeatureStore(tmp_path, "key", (4,), "uint8") as store:
        for at in range(0, len(names), 10_000):
            store.add(names[at : at + 10_000], np.full((10_000, 4), at // 10_000))
    started = time.process_time()
    with FeatureStore(tmp_path, "key", (4,), "uint8") as store:
        fetched = store.gather(names)(np.arange(len(names)))
    assert (fetched[:, 0] == np.arange(len(names)) // 10_000).all()
    # A quarter of a second; what grows with the square would take minutes.
    assert time.process_time() - started < 10


def test_what_is_no_store_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    foreign = {"mine/in-use": "", "mine/photos.npy": "x" * 9000, "notes/a.txt": "x" * 9000, "bare/in-use": ""}
    foreign |= {"nested/in-use": "", "nested/deep/a.npy": "x", "file": "x"}
    for name, text in foreign.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with FeatureStore(tmp_path, "ours", (1000,), "uint8") as store:
        store.add(["a"], np.zeros((1, 1000)))
    assert make_room(tmp_path, "next", 2000, 2500) == ["ours"]
    assert all((tmp_path / name).read_text() == text for name, text in foreign.items())


def test_a_place_that_cannot_hold_features_is_a_setting_to_correct(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"data\.features"):
        FeatureStore(tmp_path / "file", "key", (2,), "uint8")


def test_the_longest_unused_store_makes_room_and_one_in_use_never_does(tmp_path: Path) -> None:
    import os

    for age, key in enumerate(("newest", "older", "oldest", "held")):
        with FeatureStore(tmp_path, key, (1000,), "uint8") as store:
            store.add(["a"], np.zeros((1, 1000)))
        os.utime(tmp_path / key / "in-use", (0, 1e9 - age))
    with FeatureStore(tmp_path, "held", (1000,), "uint8"):
        os.utime(tmp_path / "held" / "in-use", (0, 0))
        assert make_room(tmp_path, "mine", 2000, 5000) == ["oldest", "older"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "newest"]


_ON_DEVICES = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from multitask.data.archives import open_archive
from multitask.features.computing import compute_features
from multitask.features.stores import FeatureStore
from multitask.network import hardware
from multitask.prediction.scoring import score_rows
from multitask.prediction.trained import KerasPredictor
from tests.features.test_computing import digests, make_network
folder, count = Path(sys.argv[1]), int(sys.argv[2])
if count > 1:
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    hardware.strategy = lambda: mirrored
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    hardware.devices = lambda: names
tf.keras.utils.set_random_seed(0)
archive = open_archive(folder / "a.zip")
with hardware.strategy().scope():
    network = make_network(freeze="block2_pool")
    predictor = KerasPredictor(network)
assert predictor.workers == 2 * count
picture = np.zeros((2, 16, 16, 3), np.uint8)
for number, call in enumerate(hardware.on_each_device(network.frozen, lambda model, batch: model(batch))):
    compiled = call.get_concrete_function(picture)
    places = {op.device for op in compiled.graph.get_operations() if op.type == "Conv2D"}
    places |= {weights.device for weights in compiled.captured_inputs}
    assert count == 1 or all(f"CPU:{number}" in place for place in places), places
rows = digests(archive)
with FeatureStore(folder / f"f{count}", "key", network.frozen.output.shape[1:], "float32") as store:
    assert compute_features(store, network.frozen, rows, archive, network.spec.image, 4) == []
    features = store.gather(list(rows))(np.arange(len(rows)))
scores, status = score_rows(predictor, list(archive), archive)
assert set(status) == {"ok"}
np.savez(folder / f"{count}.npz", features=features, **scores)
"""


def test_two_devices_compute_the_features_and_scores_of_one(tmp_path: Path) -> None:
    """Logical processors stand for GPUs; the weights of each are its own."""
    images = {f"{number}.jpg": photo(number) for number in range(40)}
    write_zip(tmp_path / "a.zip", images)
    for count in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _ON_DEVICES, str(tmp_path), count], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / f"{count}.npz") for count in ("1", "2"))
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)


def test_features_beyond_the_budget_beside_those_of_other_images_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"features_gb.*expected at least 3\.0; received 2\.0.*Raise it; or delete .*mine"
    ):
        make_room(tmp_path, "mine", 3_000_000_000, 2_000_000_000)
