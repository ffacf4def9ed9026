"""Reading and writing ONNX graphs: the few helpers that steps and passes share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx_ir as ir

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError, ConfigError

LARGEST = 2**31 - 1
"""Bytes that one protobuf message can hold."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file with all its weights.

    Raises:
        ArtifactError: missing, or not an ONNX file.
    """
    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{exc.filename or path}: no such file", hint="check the path") from None
    except Exception as exc:  # protobuf, onnx and onnx-ir each raise their own
        raise ArtifactError(f"{path}: not a readable ONNX model ({exc})", hint="export it again") from exc
    return model


def save(model: ir.Model, path: Path) -> None:
    """Write one self-contained file, whole or not at all.

    Raises:
        ConfigError: the model is too large for one file.
    """
    content = ir.serde.serialize_model(model)
    if (size := content.ByteSize()) > LARGEST:
        raise ConfigError(f"{path}: the model is too large", expected="below 2 GB", found=f"{size / 1e9:.1f} GB")
    write_atomic(path, content.SerializeToString(deterministic=True))


def operators(model: ir.Model) -> dict[str, int]:
    """How many nodes of each operator, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph).most_common())


def unique_names(model: ir.Model) -> None:
    """Give nodes and tensors that share a name a number each: ``pool``, ``pool_1``, ...

    A node without a name, which ONNX allows, is called after its operator.
    """
    interface = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    values: Counter[str | None] = Counter([*interface, *model.graph.initializers])
    nodes: Counter[str | None] = Counter()
    for node in model.graph:
        node.name = _numbered(node.name or node.op_type, nodes)
        for value in node.outputs:
            if value.name not in interface:
                value.name = _numbered(value.name, values)


def _numbered(name: str | None, taken: Counter[str | None]) -> str | None:
    candidate = name
    while taken[candidate]:
        candidate = f"{name}_{taken[name]}"
        taken[name] += 1
    taken[candidate] += 1
    return candidate
