"""A SavedModel in TensorFlow's C++ runtime, as a model server loads it: through the C API, without TensorFlow's Python.

The C functions are those of tensorflow/c/c_api.h, tf_tensor.h and tf_tstring.h in the installed TensorFlow package.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.errors import ModelFailed, PredictionError, command
from multitask.prediction.protocol import Scores
from multitask.progress import muted_stderr
from multitask.serving.signatures import DTYPES, NUMPY, Signature, TensorInfo, read_signatures
from multitask.spec import ModelSpec

SPEC_FILE = "assets.extra/spec.json"
# In the order of TF_Code in tensorflow/c/tf_status.h.
STATUS_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_TYPES = {"p": c_void_p, "s": c_char_p, "i": c_int, "q": c_int64, "z": c_size_t}
# Result (v for none), then arguments, as letters of _TYPES.
_FUNCTIONS = {
    "TF_NewStatus": "p",
    "TF_DeleteStatus": "vp",
    "TF_GetCode": "ip",
    "TF_Message": "sp",
    "TF_NewGraph": "p",
    "TF_DeleteGraph": "vp",
    "TF_GraphOperationByName": "pps",
    "TF_NewSessionOptions": "p",
    "TF_DeleteSessionOptions": "vp",
    "TF_SetConfig": "vpszp",
    "TF_NewBuffer": "p",
    "TF_DeleteBuffer": "vp",
    "TF_LoadSessionFromSavedModel": "pppspippp",
    "TF_DeleteSession": "vpp",
    "TF_SessionRun": "vppppippipipp",
    "TF_AllocateTensor": "pipiz",
    "TF_DeleteTensor": "vp",
    "TF_TensorData": "pp",
    "TF_TensorByteSize": "zp",
    "TF_TensorType": "ip",
    "TF_NumDims": "ip",
    "TF_Dim": "qpi",
    "TF_StringInit": "vp",
    "TF_StringDealloc": "vp",
    "TF_StringCopy": "vpsz",
    "TF_StringGetDataPointer": "pp",
    "TF_StringGetSize": "zp",
}
_STRING_BYTES = 24  # sizeof(TF_TString)
_NUMBERS = {name: number for number, name in DTYPES.items()}
# ConfigProto{graph_options(10){rewrite_options(10){auto_mixed_precision_onednn_bfloat16(31): ON}}}: what the flag
# --mixed_precision=bfloat16 of tensorflow_model_server sets.
_BFLOAT16_REWRITE = bytes.fromhex("5205" + "5203" + "f80101")


class _Output(ctypes.Structure):
    _fields_ = (("operation", c_void_p), ("index", c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocate", c_void_p))


class NativeModel:
    """A loaded SavedModel; `run` may be called from many threads at once.

    Args:
        directory: of the SavedModel.
        bfloat16: rewrite convolutions and matrix products to bfloat16, for processors that have units for it.

    Raises:
        PredictionError: there is no SavedModel, or it cannot be loaded.
    """

    def __init__(self, directory: str | Path, *, bfloat16: bool = False) -> None:
        self.directory = Path(directory)
        # The runtime itself loads a model without variables, and then fails every request.
        if not all((self.directory / name).is_file() for name in ("saved_model.pb", "variables/variables.index")):
            raise PredictionError(
                "there is no whole SavedModel", where=str(directory), fix=f"Make one: {command('export')}"
            )
        self._closing = threading.Lock()
        self._session, self._graph, meta_graph = _load(self.directory, bfloat16)
        self.signatures = read_signatures(meta_graph)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; no call may be under way. Happens by itself when nobody holds it any more."""
        if not hasattr(self, "_closing"):
            return
        with self._closing:
            session, self._session = getattr(self, "_session", None), None
        if session:
            tf = _library()
            with _status() as status:
                tf.TF_DeleteSession(session, status)
            tf.TF_DeleteGraph(self._graph)

    def run(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Call a signature.

        Args:
            signature: its name.
            inputs: by name: bytes in a sequence or object array for a string input, else an array.

        Returns:
            Arrays by output name; strings as object arrays of bytes.

        Raises:
            ModelFailed: the signature or an input is not there, an input is not what the signature declares, or the
                runtime failed. What the runtime would not survive never reaches it.
        """
        tf, called = _library(), self._called(signature, inputs)
        names = list(called.outputs)
        feeds = (_Output * len(called.inputs))(*(self._find(called.inputs[name]) for name in called.inputs))
        fetches = (_Output * len(names))(*(self._find(called.outputs[name]) for name in names))
        results = (c_void_p * len(names))()
        with contextlib.ExitStack() as stack:
            given = [stack.enter_context(_tensor(called, name, inputs[name])) for name in called.inputs]
            values = (c_void_p * len(given))(*given)
            with _status() as status:
                tf.TF_SessionRun(
                    self._session, None, feeds, values, len(given), fetches, results, len(names), None, 0, None, status
                )
        return {name: _array(result) for name, result in zip(names, results, strict=True)}

    def _called(self, name: str, inputs: Mapping[str, Any]) -> Signature:
        """Return a signature that can be called with these inputs."""
        if not self._session:
            raise ModelFailed("the model is closed", code="FAILED_PRECONDITION")
        if name not in self.signatures:
            raise ModelFailed(f'no signature "{name}"; there are {", ".join(self.signatures)}', code="NOT_FOUND")
        missing = [wanted for wanted in self.signatures[name].inputs if wanted not in inputs]
        if missing:
            raise ModelFailed(f"missing input: {', '.join(missing)}", code="INVALID_ARGUMENT")
        return self.signatures[name]

    def _find(self, info: TensorInfo) -> _Output:
        name, _, index = info.name.partition(":")
        return _Output(_library().TF_GraphOperationByName(self._graph, name.encode()), int(index or 0))


class NativePredictor:
    """Predicts with an exported SavedModel."""

    workers = 2

    def __init__(self, directory: str | Path, *, bfloat16: bool = False) -> None:
        self.model = NativeModel(directory, bfloat16=bfloat16)
        self.spec = ModelSpec.load(Path(directory) / SPEC_FILE)

    def predict(self, images: Sequence[bytes]) -> Scores:
        """Score image files; see `Predictor`."""
        found = self.model.run("serving_default", {"image_bytes": list(images)})
        return Scores(found["image_ok"], {task.name: found[task.name] for task in self.spec.tasks})


@functools.cache
def _library() -> Any:
    """Load TensorFlow's C++ library and declare what we call."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        # Its own allocator keeps for ever what one large picture took; to be said before anything is allocated.
        os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    package = importlib.util.find_spec("tensorflow")
    found = sorted(Path(package.origin).parent.glob("libtensorflow_cc*.2*")) if package and package.origin else []
    if not found:
        raise PredictionError(
            "the C++ library of TensorFlow is not installed", expected="libtensorflow_cc in the tensorflow package"
        )
    with muted_stderr():
        tf = ctypes.CDLL(str(found[0]))
    for name, letters in _FUNCTIONS.items():
        function = getattr(tf, name)
        function.restype = _TYPES.get(letters[0])
        function.argtypes = [_TYPES[letter] for letter in letters[1:]]
    return tf


@contextlib.contextmanager
def _status() -> Iterator[Any]:
    """Yield a TF_Status; raise what it says afterwards."""
    tf = _library()
    status = tf.TF_NewStatus()
    try:
        yield status
        code, text = STATUS_CODES[tf.TF_GetCode(status)], tf.TF_Message(status).decode(errors="replace")
    finally:
        tf.TF_DeleteStatus(status)
    if code != "OK":
        raise ModelFailed(text, code=code)


def _load(directory: Path, bfloat16: bool) -> tuple[Any, Any, bytes]:
    """Return session, graph and the serialized MetaGraphDef."""
    tf = _library()
    graph, options, buffer = tf.TF_NewGraph(), tf.TF_NewSessionOptions(), tf.TF_NewBuffer()
    tags = (c_char_p * 1)(b"serve")
    try:
        if bfloat16:
            with _status() as status:
                tf.TF_SetConfig(options, _BFLOAT16_REWRITE, len(_BFLOAT16_REWRITE), status)
        with _status() as status, muted_stderr():
            session = tf.TF_LoadSessionFromSavedModel(
                options, None, str(directory).encode(), tags, 1, graph, buffer, status
            )
        found = _Buffer.from_address(buffer)
        return session, graph, ctypes.string_at(found.data, found.length)
    except ModelFailed as error:
        tf.TF_DeleteGraph(graph)
        raise PredictionError(f"cannot be loaded: {error}", where=str(directory)) from None
    finally:
        tf.TF_DeleteSessionOptions(options)
        tf.TF_DeleteBuffer(buffer)


@contextlib.contextmanager
def _tensor(called: Signature, name: str, value: Any) -> Iterator[Any]:
    """Yield a TF_Tensor with a copy of the value."""
    tf, dtype = _library(), called.inputs[name].dtype
    is_text = dtype == "DT_STRING"
    array = _checked(called, name, value)
    size = _STRING_BYTES * array.size if is_text else array.nbytes
    shape = (c_int64 * array.ndim)(*array.shape)
    tensor = tf.TF_AllocateTensor(_NUMBERS[dtype], shape, array.ndim, size)
    data = tf.TF_TensorData(tensor)
    strings = range(data or 0, (data or 0) + size, _STRING_BYTES) if is_text else ()
    try:
        for position, text in zip(strings, array.ravel(), strict=False):
            tf.TF_StringInit(position)
            tf.TF_StringCopy(position, text, len(text))
        if size and not is_text:
            ctypes.memmove(data, array.ctypes.data, size)
        yield tensor
    finally:
        for position in strings:
            tf.TF_StringDealloc(position)
        tf.TF_DeleteTensor(tensor)


def _checked(called: Signature, name: str, value: Any) -> NDArray[Any]:
    """Return an input as an array of the declared type and shape; strings as objects that are bytes."""
    info = called.inputs[name]
    try:
        array = _texts(value) if info.dtype == "DT_STRING" else np.array(value, NUMPY[info.dtype], order="C")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        received = f"{type(value).__name__} ({error})"
    else:
        texts = array.ravel() if info.dtype == "DT_STRING" else ()
        wrong = {type(item).__name__ for item in texts if not isinstance(item, bytes)}
        shape = "" if called.takes(name, array) else f"shape {list(array.shape)}"
        received = f"{' and '.join(sorted(wrong))} instead of bytes" if wrong else shape
    if received:
        expected = f"{info.dtype} of shape {list(info.shape) if info.shape is not None else 'any'}"
        raise ModelFailed(f"input {name}: expected {expected}, received {received}", code="INVALID_ARGUMENT")
    return array


def _texts(value: Any) -> NDArray[Any]:
    """Return an object array of bytes; numpy's own conversion would cut zero bytes at the end of each."""
    if isinstance(value, np.ndarray):
        return value.astype(object) if value.dtype.kind == "S" else value
    if isinstance(value, str | bytes):
        raise TypeError("expected a sequence of bytes")
    return np.fromiter(value, object, len(value))


def _array(tensor: Any) -> NDArray[Any]:
    """Copy a TF_Tensor into an array, and free it."""
    tf = _library()
    try:
        shape = [tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))]
        dtype, data = DTYPES[tf.TF_TensorType(tensor)], tf.TF_TensorData(tensor)
        if dtype == "DT_STRING":
            positions = range(data or 0, (data or 0) + _STRING_BYTES * int(np.prod(shape)), _STRING_BYTES)
            texts = [ctypes.string_at(tf.TF_StringGetDataPointer(at), tf.TF_StringGetSize(at)) for at in positions]
            return _texts(texts).reshape(shape)
        return np.frombuffer(ctypes.string_at(data, tf.TF_TensorByteSize(tensor)), NUMPY[dtype]).reshape(shape)
    finally:
        tf.TF_DeleteTensor(tensor)
