"""`tf.train.Example` without TensorFlow: the protobuf messages are built from their descriptor.

The field numbers are those of ``tensorflow/core/example/{example,feature}.proto``. Generated code would register the
messages in protobuf's default pool, where they collide with those of a TensorFlow in the same process; these are in a
separate pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from shrinkserve.errors import DataError

FeatureValue = bytes | str | int | float | list[bytes] | list[int] | list[float]
Field = descriptor_pb2.FieldDescriptorProto


def encode_example(features: Mapping[str, FeatureValue]) -> bytes:
    """Serialise features; equal features give equal bytes.

    Args:
        features: key -> bytes, text, integer, float, or a list of one of these kinds. Text that is not valid Unicode
            (a file name in another encoding) is stored as its original bytes.
    """
    message = _example_class()()
    for key, value in features.items():
        values: Sequence[bytes | str | int | float] = value if isinstance(value, list) else [value]
        feature = message.features.feature[key]
        if all(isinstance(v, int) for v in values):
            feature.int64_list.value.extend(values)
        elif all(isinstance(v, (int, float)) for v in values):
            feature.float_list.value.extend(values)
        else:
            raw = (v.encode(errors="surrogateescape") if isinstance(v, str) else v for v in values)
            feature.bytes_list.value.extend(raw)
    return bytes(message.SerializeToString(deterministic=True))


class Features:
    """The features of one `tf.train.Example`, read by key."""

    def __init__(self, raw: bytes) -> None:
        """Parse `raw`.

        Raises:
            DataError: not a `tf.train.Example`.
        """
        try:
            self._map = _example_class().FromString(raw).features.feature
        except DecodeError:
            raise DataError("not a tf.train.Example", hint="check the program that wrote this shard") from None

    def bytes(self, key: str) -> bytes:
        """Return the one byte string under `key`; raise `DataError` if there is not exactly one."""
        value: bytes = self._one(key, "bytes_list")
        return value

    def int(self, key: str) -> int:
        """Return the one integer under `key`; raise `DataError` if there is not exactly one."""
        value: int = self._one(key, "int64_list")
        return value

    def text(self, key: str) -> str:
        """Return the text under `key`, empty if there is none."""
        values = self._map[key].bytes_list.value if key in self._map else []
        return values[0].decode("utf-8", errors="replace") if values else ""

    def _one(self, key: str, kind: str) -> Any:
        # Check `in` first: reading an absent key would insert it into the protobuf map.
        values = getattr(self._map[key], kind).value if key in self._map else []
        if len(values) != 1:
            found = f"{len(values)} values" if key in self._map else f"the keys {sorted(self._map)}"
            raise DataError(f"feature {key!r}", expected=f"one value ({kind})", found=found)
        return values[0]


@cache
def _example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="shrinkserve/example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (
        ("BytesList", Field.TYPE_BYTES),
        ("FloatList", Field.TYPE_FLOAT),
        ("Int64List", Field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=Field.LABEL_REPEATED)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".tensorflow." + "".join(part.capitalize() for part in name.split("_"))
        _message_field(feature, name, number, type_name).oneof_index = 0

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    _message_field(entry, "value", 2, ".tensorflow.Feature")
    _message_field(features, "feature", 1, ".tensorflow.Features.FeatureEntry").label = Field.LABEL_REPEATED

    _message_field(file.message_type.add(name="Example"), "features", 1, ".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _message_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, type_name: str) -> Field:
    return message.field.add(
        name=name, number=number, type=Field.TYPE_MESSAGE, label=Field.LABEL_OPTIONAL, type_name=type_name
    )
