"""What a SavedModel takes and gives: its signatures, read from the protobuf bytes without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers of tensorflow/core/framework/types.proto that our models use, and their numpy types.
DTYPES = {
    **{0: "DT_INVALID", 1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 4: "DT_UINT8", 7: "DT_STRING"},
    **{9: "DT_INT64", 10: "DT_BOOL"},
}
NUMPY = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT32": np.int32,
    "DT_UINT8": np.uint8,
    "DT_INT64": np.int64,
    "DT_BOOL": np.bool_,
}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name in the graph, dtype and shape; -1 is any size, a shape of None any rank."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """One way to call a model."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method: str

    def takes(self, name: str, array: NDArray[Any]) -> bool:
        """Has an input the declared shape?

        A model server does not ask, and then a wrong rank fails in the graph, at the worst in a check that ends the
        process.
        """
        declared = self.inputs[name].shape
        return declared is None or (
            len(declared) == array.ndim
            and all(size in (-1, found) for size, found in zip(declared, array.shape, strict=True))
        )


def read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """Read the signatures of a serialized MetaGraphDef (tensorflow/core/protobuf/meta_graph.proto, field 5)."""
    return {
        _text(entry[1]): _signature(entry.get(2, [b""])[0])
        for entry in (_message(value) for value in _message(meta_graph).get(5, []))
    }


def _signature(data: bytes) -> Signature:
    fields = _message(data)
    inputs, outputs = (
        {_text(entry[1]): _tensor_info(entry[2][0]) for entry in map(_message, fields.get(number, []))}
        for number in (1, 2)
    )
    return Signature(inputs, outputs, _text(fields.get(3, [b""])))


def _tensor_info(data: bytes) -> TensorInfo:
    fields = _message(data)
    dtype = fields.get(2, [0])[0]
    shape = _message(fields.get(3, [b""])[0])
    sizes = tuple(_signed(_message(size).get(1, [0])[0]) for size in shape.get(2, []))
    is_unknown = bool(shape.get(3, [0])[0])
    return TensorInfo(_text(fields.get(1, [b""])), DTYPES.get(dtype, str(dtype)), None if is_unknown else sizes)


def _message(data: bytes) -> dict[int, list[Any]]:
    """Group the fields of a message by number: whole numbers for varints, bytes for the rest."""
    found: dict[int, list[Any]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Walk the wire format, https://protobuf.dev/programming-guides/encoding/."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        else:
            size = {1: 8, 5: 4}[kind]
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _signed(value: int) -> int:
    """Read a varint as the int64 it encodes."""
    return value - (1 << 64) if value >> 63 else value


def _text(values: list[bytes]) -> str:
    return values[0].decode()
