"""The files of an exported version as stages: its graph, and every engine of it that can be asked on this machine."""

from __future__ import annotations

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
    """The exported version to look at: the one that is served, or else the newest; None when there is none here.

    Args:
        repository: the model repository.
        model: its name.
        sha256: of the weights that it must have.
        served: number of the version that answers; None without a server.
    """
    folder = repository / resolve_classifier(model, [path.name for path in repository.glob("*")])
    numbers = versions_in(folder) if folder.is_dir() else []
    for number in reversed(numbers if served is None else [n for n in numbers if n == served]):
        card = read_card(folder / str(number))
        if card.weights_sha256 == sha256 and card.kind == "onnx":
            return number, folder / str(number)
    return None


def graph_stage(folder: Path) -> Target:
    """A version's float32 graph in ONNX Runtime."""
    card = read_card(folder)
    precision = card.precision
    graph = OnnxModel(folder / MODEL, spin=False)
    return _stage("onnx", precision, folder, graph, card.files[MODEL])


def engine_stages(folder: Path) -> tuple[list[Target], list[str]]:
    """A version's other engines, and a line for each that cannot be asked here."""
    card = read_card(folder)
    stages, left_out = [], []
    for engine in engines_of(card):
        runtime = "onnx" if engine.backend == "onnxruntime" else engine.backend
        try:
            answerer = open_engine(folder, engine.to_dict())
        except ArtifactError as exc:
            left_out.append(f"{engine.name}: {exc}")
        else:
            stages.append(_stage(runtime, engine.precision, folder, answerer, card.files[engine.file]))
    return stages, left_out


def _stage(runtime: str, precision: str, folder: Path, answerer: Predictor, sha256: str) -> Target:
    kind, exact = "onnx" if runtime == "onnx" else "engine", precision == "float32"
    return local(f"{runtime} {precision} v{folder.name}", answerer, kind, precision, sha256, exact=exact)
