"""What is in an artifact: its card, its graph, and how it differs from another one."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkserve.arch.counts import count
from shrinkserve.arch.serialise import from_dict
from shrinkserve.artifact import CARD, Card, read_card, sha256_file
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.passes.editing import attribute
from shrinkserve.runtimes.tensorrt import BUILT


def inspect(path: Path) -> dict[str, Any]:
    """A summary of a run folder, a repository's version folder, an ONNX file or a plan, as JSON data.

    Raises:
        ArtifactError: nothing of the kind there, or damaged.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder", hint="name what `train` or `export` wrote")
    if path.is_dir():
        return _folder(path)
    if path.suffix in {".onnx", ".plan"}:
        beside = _card(path.parent) if (path.parent / CARD).is_file() else {}
        inside = summary(graph.load(path)) if path.suffix == ".onnx" else {"built": _built(path)}
        return {"file": str(path), "sha256": sha256_file(path), **beside, **inside}
    expected = "a run folder, a version folder, an .onnx file or a .plan file"
    raise ArtifactError(f"{path}: not an artifact", expected=expected, found=path.suffix or "a file")


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries whose values are not the same, with both values; of tables only what differs, as ``"table key"``."""
    one, other = _flat(one), _flat(other)
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def _flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in found.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def summary(model: ir.Model) -> dict[str, Any]:
    """Interface, operators, tensor types, weights and multiply-accumulates (for one image) of a graph."""
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    types = Counter(str(tensor.dtype) for tensor in weights)
    return {
        "opset": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "inputs": {value.name: f"{value.dtype} {value.shape}" for value in model.graph.inputs},
        "outputs": {value.name: f"{value.dtype} {value.shape}" for value in model.graph.outputs},
        "operators": graph.operators(model),
        "weight types": dict(types),
        "weights": sum(tensor.size for tensor in weights),
        "weight bytes": sum(tensor.nbytes for tensor in weights),
        "multiply-accumulates": sum(_macs(node) for node in model.graph),
        **{f"property {key}": value for key, value in model.metadata_props.items()},
    }


def _macs(node: ir.Node) -> int:
    """Multiplications of a convolution or matrix product for one image; 0 for other operators or unknown shapes."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type not in {"Conv", "Gemm"} or weight is None or weight.shape is None:
        return 0
    sizes = [int(size) for size in weight.shape if isinstance(size, int)]
    if node.op_type == "Gemm":
        return prod(sizes)
    output = node.outputs[0].shape
    pixels = [size for size in (output[2:] if output is not None else ()) if isinstance(size, int)]
    return int(np.prod(sizes)) * prod(pixels) if len(pixels) == 2 and attribute(node, "group", 1) else 0


def _folder(path: Path) -> dict[str, Any]:
    found = {"folder": str(path), **_card(path)}
    model = path / "model.onnx"
    return found | summary(graph.load(model)) if model.is_file() else found


def _network(spec: dict[str, Any]) -> dict[str, Any]:
    """Of a checkpoint, what `summary` says of a graph."""
    network = from_dict(spec)
    counts = count(network)
    return {
        "layers": dict(Counter(str(op) for _, op in network.nodes(data="op")).most_common()),
        "weights": sum(counts.parameters.values()) + counts.statistics,
        "multiply-accumulates": sum(counts.macs.values()),
    }


def _built(path: Path) -> dict[str, Any]:
    """What a plan was built by and for, as the card beside it says."""
    if (path.parent / CARD).is_file():
        for engine in read_card(path.parent).details.get("engines", {}).values():
            if path.name in (built := engine["record"].get(BUILT, {})):
                return dict(built[path.name])
    hint = "name a plan in the version folder that `export` wrote"
    raise ArtifactError(f"{path}: no card beside it says what it was built by and for", hint=hint)


def _card(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    try:
        return _described(card)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise ArtifactError(f"{folder / CARD}: damaged card ({reason})", hint="export the model again") from exc


def _described(card: Card) -> dict[str, Any]:
    steps = card.details.get("steps", [])
    return {
        "kind": card.kind,
        "name": card.name,
        "weights kind": card.weights,
        "weights sha256": card.weights_sha256,
        "classes": len(card.classes),
        "preprocess": card.preprocess,
        "metrics": card.metrics,
        "steps": [f"{step['step']}: {step['from']} -> {step['to']}" for step in steps],
        "worst difference": max((step["parity"].get("worst", 0.0) for step in steps), default=None),
        "engines": {
            name: f"{engine['precision']} by {engine['backend']}, {engine['file']}"
            for name, engine in card.details.get("engines", {}).items()
        },
        "created": card.created,
        "versions": card.versions,
        **(_network(card.spec) if card.spec else {}),
    }
