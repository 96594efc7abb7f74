"""The export: what the SavedModel holds, how it meets bad input, and what the proof refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from multitask.demo.probe import probe_images
from multitask.errors import ConfigError, ModelFailed, PredictionError, ProofError
from multitask.publishing.exporting import export_run
from multitask.publishing.proving import PROOF_FILE, digest, prove
from multitask.publishing.saved_model import WARM_UP_ROWS
from multitask.runs import Run
from multitask.serving import native
from multitask.serving.native import NativeModel, NativePredictor
from multitask.spec import ModelSpec

GOOD = probe_images()["jpeg_orientation_1"]


@pytest.fixture(scope="module")
def model(exported: Path) -> NativeModel:
    return NativeModel(exported)


def refusal(model: NativeModel, signature: str, **inputs: object) -> str:
    with pytest.raises(ModelFailed) as error:
        model.run(signature, inputs)
    return error.value.code


def test_the_signatures_take_files_or_pixels_and_give_named_answers(model: NativeModel, trained: Run) -> None:
    assert set(model.signatures) >= {"serving_default", "from_pixels", "spec"}
    serving = model.signatures["serving_default"]
    assert [(name, info.dtype, info.shape) for name, info in serving.inputs.items()] == [
        ("image_bytes", "DT_STRING", (-1,))
    ]
    outputs = {name: (info.dtype, info.shape) for name, info in serving.outputs.items()}
    assert outputs == {
        "category": ("DT_FLOAT", (-1, 5)),
        "category_top": ("DT_STRING", (-1, 2)),
        "category_top_scores": ("DT_FLOAT", (-1, 2)),
        "tags": ("DT_FLOAT", (-1, 3)),
        "tags_present": ("DT_INT64", (-1, 3)),
        "size": ("DT_FLOAT", (-1, 1)),
        "image_ok": ("DT_BOOL", (-1,)),
    }
    assert model.signatures["from_pixels"].outputs.keys() == serving.outputs.keys()


def test_answers_follow_from_scores(model: NativeModel, trained: Run) -> None:
    found = model.run("serving_default", {"image_bytes": [GOOD]})
    category, tags, _ = trained.spec.tasks
    order = np.argsort(-found["category"][0])[:2]
    assert [name.decode() for name in found["category_top"][0]] == [category.classes[at] for at in order]
    assert found["category_top_scores"][0].tolist() == found["category"][0][order].tolist()
    assert found["category"].sum() == pytest.approx(1, abs=1e-6)
    assert found["tags_present"][0].tolist() == (found["tags"][0] >= np.float32(tags.thresholds)).astype(int).tolist()


def test_an_unreadable_image_gets_empty_answers_and_no_nan(model: NativeModel) -> None:
    found = model.run("serving_default", {"image_bytes": [b"", GOOD, b"text"]})
    assert found["image_ok"].tolist() == [False, True, False]
    for name, values in found.items():
        if name != "image_ok":
            assert not values[[0, 2]].any(), name
            assert values[1].any() or name == "tags_present", name


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(trained: Run, tmp_path: Path) -> None:
    from multitask.network.model import load_network
    from multitask.publishing.saved_model import write_saved_model

    image = trained.spec.image.model_copy(update={"max_pixels": 96 * 72 - 1})
    spec = trained.spec.model_copy(update={"image": image})
    write_saved_model(load_network(trained.folder / "model.keras", spec, heads="float64"), tmp_path / "1", GOOD)
    found = NativePredictor(tmp_path / "1").predict([GOOD, probe_images((40, 30))["png"]])
    assert found.ok.tolist() == [False, True]


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 32, 32, 4), (1, 16, 16, 3), (1, 1, 32, 32, 3)])
def test_pixels_of_another_shape_are_refused_and_the_process_lives(model: NativeModel, shape: tuple[int, ...]) -> None:
    assert refusal(model, "from_pixels", pixels=np.zeros(shape, np.float32)) == "INVALID_ARGUMENT"
    assert model.run("serving_default", {"image_bytes": [GOOD]})["image_ok"].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 255.5])
def test_pixels_out_of_range_are_not_ok(model: NativeModel, value: float) -> None:
    pixels = np.full((2, 32, 32, 3), 7.0, np.float32)
    pixels[1, 3, 4, 1] = value
    found = model.run("from_pixels", {"pixels": pixels})
    assert found["image_ok"].tolist() == [True, False]
    assert not found["category"][1].any()


def test_bytes_of_another_rank_are_refused(model: NativeModel) -> None:
    for shape in ((), (1, 1)):
        array = np.empty(shape, object)
        array[...] = GOOD
        assert refusal(model, "serving_default", image_bytes=array) == "INVALID_ARGUMENT"


def test_the_model_describes_itself(model: NativeModel, trained: Run, exported: Path) -> None:
    [text] = model.run("spec", {"rows": [b""]})["spec"]
    assert ModelSpec.model_validate_json(text) == trained.spec == ModelSpec.load(exported / native.SPEC_FILE)
    labels = json.loads((exported / "assets.extra/labels.json").read_text())
    assert labels == {task.name: list(task.classes) for task in trained.spec.tasks}


def test_weights_are_stored_once(vgg16: Path) -> None:
    stored = sum(path.stat().st_size for path in (vgg16 / "variables").iterdir())
    # 14.7 million float32 weights of VGG16's convolutions, and the heads.
    assert 14_714_688 * 4 < stored < 14_714_688 * 4 * 1.05


def test_there_is_no_python_in_the_graph(exported: Path, vgg16: Path) -> None:
    for directory in (exported, vgg16):
        assert b"PyFunc" not in (directory / "saved_model.pb").read_bytes()


def test_warm_up_requests_are_what_the_server_reads(exported: Path, model: NativeModel) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    found = []
    for record in tf.data.TFRecordDataset(str(exported / "assets.extra/tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        [(name, tensor)] = request.inputs.items()
        value = tf.make_ndarray(tensor)
        found.append((request.model_spec.signature_name, len(value)))
        outputs = model.run(request.model_spec.signature_name, {name: value})
        assert outputs.get("image_ok", np.ones(1)).all()
    assert set(found) == {(name, rows) for name in ("serving_default", "from_pixels", "spec") for rows in WARM_UP_ROWS}


def test_the_bfloat16_rewrite_is_the_flag_of_the_server_and_heads_keep_their_precision(vgg16: Path) -> None:
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

    config = config_pb2.ConfigProto.FromString(native._BFLOAT16_REWRITE)
    options = config.graph_options.rewrite_options
    assert options.auto_mixed_precision_onednn_bfloat16 == rewriter_config_pb2.RewriterConfig.ON
    found = NativeModel(vgg16, bfloat16=True).run("serving_default", {"image_bytes": [GOOD]})["category"]
    exact = NativeModel(vgg16).run("serving_default", {"image_bytes": [GOOD]})["category"]
    assert np.abs(found - exact).max() < 0.03
    # A probability of 8 significant bits would survive the way to bfloat16 and back.
    bits = found.view(np.uint32)
    assert (bits & 0xFFFF).any()


def test_the_proof_is_in_the_export_and_names_the_model(exported: Path) -> None:
    proof = json.loads((exported / PROOF_FILE).read_text())
    assert proof["images"] >= len(probe_images()) + 10
    assert proof["readable"] == proof["images"] - 3
    assert set(proof["differences"]) == {"C++ runtime", "HTTP server"}
    assert all(difference <= proof["tolerance"] == 1e-4 for difference in proof["differences"].values())
    assert proof["model"] == digest(exported)


class _Other:
    """The trained predictor, with one answer changed."""

    workers = 2

    def __init__(self, exported: Path, change) -> None:
        self._native = NativePredictor(exported)
        self.spec, self._change = self._native.spec, change

    def predict(self, images):
        found = self._native.predict(images)
        copies = {name: values.copy() for name, values in found.values.items()}
        ok = found.ok.copy()
        self._change(ok, copies)
        return type(found)(ok, copies)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ok, values: values["category"].__setitem__((0, 0), values["category"][0, 0] + 0.01), "other scores"),
        (lambda ok, values: values["tags"].__setitem__((1, 2), np.nan), "other scores"),
        (lambda ok, values: ok.__setitem__(0, False), "which images are readable"),
    ],
)
def test_the_proof_refuses_another_answer(exported: Path, change, words: str) -> None:
    with pytest.raises(ProofError, match=words) as error:
        prove(_Other(exported, change), exported, [GOOD, GOOD], 1e-4)
    assert error.value.exit_code == 5


def test_the_proof_refuses_a_model_that_loads_in_python_and_fails_in_the_server(trained: Run, tmp_path: Path) -> None:
    """The usual mistake, keras-team/keras#19274: a Keras model held by the root of tf.saved_model.save."""
    import tensorflow as tf

    from multitask.network.model import load_network
    from multitask.prediction.trained import KerasPredictor, score_bytes

    network = load_network(trained.folder / "model.keras", trained.spec)

    class Root(tf.Module):
        def __init__(self) -> None:
            self.model = network.whole

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def answer(self, image_bytes):
            return score_bytes(network, image_bytes)

    root = Root()
    tf.saved_model.save(root, str(tmp_path / "bad"), signatures={"serving_default": root.answer})
    (tmp_path / "bad/assets.extra").mkdir()
    trained.spec.save(tmp_path / "bad/assets.extra/spec.json")
    loaded = tf.saved_model.load(str(tmp_path / "bad"))
    assert loaded.signatures["serving_default"](image_bytes=tf.constant([GOOD]))["image_ok"].numpy().all()
    with pytest.raises(ProofError, match=r"C\+\+ runtime fails"):
        prove(KerasPredictor(network), tmp_path / "bad", [GOOD], 1e-4)


def test_a_failed_proof_writes_nothing_and_leaves_the_old_export(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = export_run(trained, tmp_path / "export")
    before = digest(out)

    def fail(*arguments: object) -> None:
        raise ProofError("no")

    monkeypatch.setattr("multitask.publishing.exporting.prove", fail)
    for place in (out, tmp_path / "other"):
        with pytest.raises(ProofError):
            export_run(trained, place)
    assert digest(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_an_export_does_not_replace_something_else(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="no export"):
        export_run(trained, tmp_path / "photos")


def test_a_missing_or_broken_saved_model_is_one_clear_error(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(PredictionError, match=r"multitask\.export"):
        NativePredictor(tmp_path)
    shutil.copytree(exported, tmp_path / "broken")
    (tmp_path / "broken/saved_model.pb").write_bytes(b"\x00\x01")
    with pytest.raises(PredictionError, match="cannot be loaded"):
        NativePredictor(tmp_path / "broken")
    shutil.copytree(exported, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty/variables")
    with pytest.raises(PredictionError, match="no whole SavedModel"):
        NativePredictor(tmp_path / "empty")
