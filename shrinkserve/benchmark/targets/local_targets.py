"""Targets of an exported version: its graph, and every engine that runs on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shrinkserve.artifact import MODEL, read_card
from shrinkserve.benchmark.targets.target import Target, local
from shrinkserve.engines import engines_of
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes import Predictor, open_engine
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.names import resolve_classifier
from shrinkserve.serving.repository.reader import versions_in


def find_version(repository: Path, model: str, sha256: str, served: int | None) -> tuple[int, Path] | None:
    """Return the served version, or the newest one without a server; None if the repository has no such version.

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
            return number, folder / str(number)
    return None


def graph_target(folder: Path) -> Target:
    """Return the target of a version's graph in ONNX Runtime."""
    card = read_card(folder)
    precision = card.precision
    graph = OnnxModel(folder / MODEL, spin=False)
    target = _target("onnx", precision, folder, graph, card.files[MODEL])
    return replace(target, temperature=card.details.get("temperature", 1.0))


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
            target = _target(runtime, engine.precision, folder, predictor, card.files[engine.file])
            targets.append(replace(target, temperature=card.details.get("temperature", 1.0)))
    return targets, left_out


def _target(runtime: str, precision: str, folder: Path, predictor: Predictor, sha256: str) -> Target:
    name, exact = f"{runtime} {precision} v{folder.name}", precision == "float32"
    return local(name, predictor, "onnx" if runtime == "onnx" else "engine", precision, sha256, exact=exact)
