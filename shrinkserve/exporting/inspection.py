"""Contents of an artifact: its card, its graph, and the differences from another one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

import onnx_ir as ir

from shrinkserve.arch.counts import count
from shrinkserve.arch.serialise import from_dict
from shrinkserve.arch.sources import CODE
from shrinkserve.artifact import CARD, MODEL, Card, Json, read_card, sha256_file
from shrinkserve.engines import engines_of
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.macs import count_macs
from shrinkserve.exporting.records import StepRecord

SHOWN = 300
"""Longest metadata that is shown, in characters."""
Summary = dict[str, object]
"""Values by name, as JSON data: a number, a text, a list or a table of these."""


def describe_artifact(path: Path) -> Summary:
    """Return a summary of a run folder, a version folder, an ONNX file or a plan, as JSON data.

    Raises:
        ArtifactError: not an artifact, or damaged.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder", hint="name what `train` or `export` wrote")
    if path.is_dir():
        return _folder(path)
    if path.suffix in {".onnx", ".plan"}:
        card = _card(path.parent) if (path.parent / CARD).is_file() else {}
        inside = summary(graph.load(path)) if path.suffix == ".onnx" else {"built": _built(path)}
        return {"file": str(path), "sha256": sha256_file(path), **card, **inside}
    expected = "a run folder, a version folder, an .onnx file or a .plan file"
    raise ArtifactError(f"{path}: not an artifact", expected=expected, found=path.suffix or "a file")


def differences(one: Summary, other: Summary) -> dict[str, tuple[object, object]]:
    """Return the entries that differ, with both values; entries of tables as ``"table key"``."""
    one, other = _flat(one), _flat(other)
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def _flat(found: Summary, prefix: str = "") -> Summary:
    flat: Summary = {}
    for key, value in found.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def summary(model: ir.Model) -> Summary:
    """Return interface, operators, tensor types, weights and multiply-accumulates (for one image) of a graph."""
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    macs = count_macs(model)
    return {
        "opset": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "precision": graph.precision(model),
        "inputs": {value.name: f"{value.dtype} {value.shape}" for value in model.graph.inputs},
        "outputs": {value.name: f"{value.dtype} {value.shape}" for value in model.graph.outputs},
        "operators": graph.operators(model),
        "weight types": dict(Counter(str(tensor.dtype) for tensor in weights)),
        "weights": sum(tensor.size for tensor in weights),
        "weights hash": graph.weights_sha256(model),
        "weight bytes": sum(tensor.nbytes for tensor in weights),
        "multiply-accumulates": "unknown" if macs is None else macs,
        **{f"property {key}": _short(value) for key, value in model.metadata_props.items()},
    }


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _folder(path: Path) -> Summary:
    found: Summary = {"folder": str(path), **_card(path)}
    model = path / MODEL
    return found | summary(graph.load(model)) if model.is_file() else found


def _network(spec: Json) -> Summary:
    """Return for a checkpoint what `summary` returns for a graph."""
    network = from_dict(spec)
    counts = count(network)
    return {
        "layers": dict(Counter(str(op) for _, op in network.nodes(data="op")).most_common()),
        "weights": sum(counts.parameters.values()) + counts.statistics,
        "multiply-accumulates": sum(counts.macs.values()),
    }


def _built(path: Path) -> Json:
    """Return what a plan was built by and for, from the card in its folder."""
    if (path.parent / CARD).is_file():
        for engine in engines_of(read_card(path.parent)):
            if path.name in engine.plans:
                return engine.plans[path.name]
    hint = "name a plan in a version folder that `export` wrote"
    raise ArtifactError(f"{path}: no card records what it was built by and for", hint=hint)


def _card(folder: Path) -> Summary:
    card = read_card(folder)
    try:
        return _describe(card)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise ArtifactError(f"{folder / CARD}: damaged card ({reason})", hint="export the model again") from exc


def _describe(card: Card) -> Summary:
    steps = [cast(StepRecord, step) for step in card.details.get("steps", [])]
    engines = engines_of(card)
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
        "engines": {engine.name: f"{engine.precision} by {engine.backend}, {engine.file}" for engine in engines},
        "created": card.created,
        "versions": card.versions,
        **(_network(card.spec) if card.spec and CODE not in card.spec else {}),
    }
