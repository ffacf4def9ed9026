"""Targets of an exported version: its graph, and every engine that runs on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shrinkserve.artifact import MODEL, Card, read_card
from shrinkserve.benchmark.targets.target import Target, TargetKind, local_target
from shrinkserve.engines import engines_of
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes import Predictor, open_engine
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.names import resolve_classifier
from shrinkserve.serving.repository.reader import versions_in


def find_version(repository: Path, model: str, sha256: str, served: int | None) -> Path | None:
    """Return the folder of the served version, or of the newest one without a server; None if there is no such version.

    Args:
        repository: model repository.
        model: name of the model.
        sha256: hash of the weights that the version must have.
        served: number of the served version; None without a server.
    """
    folder = repository / resolve_classifier(model, [path.name for path in repository.glob("*")])
    numbers = versions_in(folder) if folder.is_dir() else []
    for number in reversed(numbers if served is None else [n for n in numbers if n == served]):
        card = read_card(folder / str(number))
        if card.weights_sha256 == sha256 and card.kind == "onnx":
            return folder / str(number)
    return None


def graph_target(folder: Path) -> Target:
    """Return the target of a version's graph in ONNX Runtime."""
    card = read_card(folder)
    return _target(card, folder, "onnx", card.precision, OnnxModel(folder / MODEL, spin=False), MODEL)


def engine_targets(folder: Path) -> tuple[list[Target], list[str]]:
    """Return the targets of a version's other engines, and a line for each engine that this machine cannot run."""
    card = read_card(folder)
    targets, left_out = [], []
    for engine in engines_of(card):
        runtime = "onnx" if engine.backend == "onnxruntime" else engine.backend
        try:
            predictor = open_engine(folder, engine)
        except ArtifactError as exc:
            left_out.append(f"{engine.name}: {exc}")
        else:
            targets.append(_target(card, folder, runtime, engine.precision, predictor, engine.file))
    return targets, left_out


def _target(card: Card, folder: Path, runtime: str, precision: str, predictor: Predictor, file: str) -> Target:
    kind: TargetKind = "onnx" if runtime == "onnx" else "engine"
    name, exact = f"{runtime} {precision} v{folder.name}", precision == "float32"
    target = local_target(name, predictor, kind, precision, card.files[file], exact=exact)
    return replace(target, temperature=card.details.get("temperature", 1.0))
