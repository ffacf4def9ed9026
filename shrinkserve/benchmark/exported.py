"""The files of an exported version as stages: its graph, and every engine of it that can be asked on this machine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from shrinkserve.artifact import Card, read_card
from shrinkserve.benchmark.target import Target, local
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes import Answerer
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.engines import Engine, engines_of
from shrinkserve.serving.family import known_classifier
from shrinkserve.serving.holdings import versions_in
from shrinkserve.serving.model_config import MODEL


def find_version(repository: Path, model: str, sha256: str, served: int | None) -> tuple[int, Path] | None:
    """The exported version to look at: the one that is served, or else the newest; None when there is none here.

    Args:
        repository: the model repository.
        model: its name.
        sha256: of the weights that it must have.
        served: number of the version that answers; None without a server.
    """
    folder = repository / known_classifier(model, [path.name for path in repository.glob("*")])
    numbers = versions_in(folder) if folder.is_dir() else []
    for number in reversed(numbers if served is None else [n for n in numbers if n == served]):
        card = read_card(folder / str(number))
        if card.weights_sha256 == sha256 and card.kind == "onnx":
            return number, folder / str(number)
    return None


def graph_stage(folder: Path) -> Target:
    """A version's float32 graph in ONNX Runtime."""
    card = read_card(folder)
    precision = str(card.details.get("precision", "float32"))
    return _stage("onnx", precision, folder / MODEL, card, lambda path: OnnxModel(path, spin=False))


def engine_stages(folder: Path) -> tuple[list[Target], list[str]]:
    """A version's other engines, and a line for each that cannot be asked here."""
    card = read_card(folder)
    stages, left_out = [], []
    for engine in engines_of(card):
        try:
            stages.append(_engine(folder, engine, card))
        except ArtifactError as fault:
            left_out.append(f"{engine.name}: {fault}")
    return stages, left_out


def _engine(folder: Path, engine: Engine, card: Card) -> Target:
    path = folder / engine.file
    if engine.backend == "onnxruntime":
        return _stage("onnx", engine.precision, path, card, lambda path: OnnxModel(path, spin=False))
    if engine.backend == "openvino":
        if find_spec("openvino") is None:
            raise ArtifactError("OpenVINO is not installed", do="pip install 'shrinkserve[openvino]'")
        from shrinkserve.runtimes.openvino import OpenVinoModel

        hint = engine.parameters.get("INFERENCE_PRECISION_HINT")
        return _stage(
            "openvino",
            engine.precision,
            path,
            card,
            lambda path: OpenVinoModel(path, precision="bf16" if hint == "bf16" else "f32"),
        )
    from shrinkserve.runtimes.tensorrt import TensorRtModel

    built = (engine.record.get("steps") or [{}])[-1].get("built")
    if engine.backend != "tensorrt" or built is None:
        raise ArtifactError(f"backend {engine.backend} cannot be asked without a server")
    return _stage("tensorrt", engine.precision, path, card, lambda path: TensorRtModel(path, built))


def _stage(runtime: str, precision: str, path: Path, card: Card, opener: Callable[[Path], Answerer]) -> Target:
    kind, exact = "onnx" if runtime == "onnx" else "engine", precision == "float32"
    name = f"{runtime} {precision} v{path.parent.name}"
    return local(name, opener(path), kind, precision, card.files[path.name], exact=exact)
