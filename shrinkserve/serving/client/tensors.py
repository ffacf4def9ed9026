"""Decoding of what a server sent, with every size checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from shrinkserve.serving.client.operations import ModelStatistics, Tensor


def decode_tensor(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return the tensor in `raw`.

    Raises:
        ValueError: the type is not supported, or the shape does not fit the number of bytes.
    """
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes):
        raise ValueError(f"output {name}: shape {sizes}")
    kind = triton_to_np_dtype(datatype)
    if datatype == "BYTES":
        array: Tensor = deserialize_bytes_tensor(bytes(raw))
    elif kind is not None and len(raw) % np.dtype(kind).itemsize == 0:
        array = np.frombuffer(raw, kind)
    else:
        raise ValueError(f"output {name}: {len(raw)} bytes of type {datatype!r}")
    if array.size != math.prod(sizes):
        raise ValueError(f"output {name}: shape {sizes} with {array.size} values")
    return array.reshape(sizes)


def decode_statistics(message: Message) -> list[ModelStatistics]:
    """Return a reply's statistics as plain data.

    Raises:
        ValueError: an entry has no name, or a version that is no number.
    """
    raw = json_format.MessageToDict(message, preserving_proto_field_name=True)
    found: list[ModelStatistics] = [_numbers(entry) for entry in raw.get("model_stats", [])]
    for entry in found:
        if not entry.get("name") or not entry.get("version", "").isdecimal():
            raise ValueError("statistics without a model's name and version")
    return found


def _numbers(value: Any, key: str = "") -> Any:
    """Return protobuf's JSON with 64-bit integers as numbers; it has strings for them."""
    if isinstance(value, dict):
        return {inner: _numbers(item, inner) for inner, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, key) for item in value]
    return int(value) if isinstance(value, str) and key not in {"name", "version"} and value.isdecimal() else value
