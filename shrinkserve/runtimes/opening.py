"""From a path to something that answers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shrinkserve.artifact import read_card, safe_join
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.predictor import Predictor


def open_artifact(path: Path) -> Predictor:
    """Load a run folder, a version folder of a repository, an ONNX file or a TensorRT plan.

    ``VERSION@ENGINE``, e.g. ``digits_classifier/1@bfloat16``, is another engine of a version, as a server runs it;
    ``RUN@raw`` the weights that the optimiser ended with.

    Raises:
        ArtifactError: missing, damaged, of another kind, or an engine that this machine cannot run.
    """
    folder, at, part = path.name.rpartition("@")
    if at and not path.exists() and path.with_name(folder).is_dir():
        return _open_part(path.with_name(folder), part)
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder", hint="name what `train` or `export` wrote")
    if path.is_dir():
        if read_card(path, verify=False).kind == "onnx":
            return open_artifact(path / "model.onnx")
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return Checkpoint(path)
    if path.suffix == ".onnx":
        from shrinkserve.runtimes.onnx import OnnxModel

        return OnnxModel(path)
    if path.suffix == ".plan":
        from shrinkserve.runtimes.tensorrt import open_plan

        return open_plan(path)
    expected = "a run folder, a version folder, an .onnx file or a .plan file"
    raise ArtifactError(f"{path}: not an artifact that can be asked", expected=expected, found=path.suffix or "a file")


def _open_part(folder: Path, name: str) -> Predictor:
    """A run's weights or a version's engine, by name."""
    card = read_card(folder, verify=False)
    if card.kind != "onnx":
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return Checkpoint(folder, name)
    engines = card.details.get("engines", {})
    if name not in engines:
        expected = f"one of its engines: {', '.join(engines) or 'none'}"
        hint = f"add one with `shrinkserve export {folder} --to ...`"
        raise ArtifactError(f"{folder}: no such engine", expected=expected, found=name, hint=hint)
    try:
        return open_engine(folder, engines[name])
    except (KeyError, TypeError, AttributeError) as exc:
        raise ArtifactError(f"{folder}: engine {name} cannot be read ({exc!r})", hint="export it again") from exc


def open_engine(folder: Path, engine: Mapping[str, Any]) -> Predictor:
    """Load an engine of a version as a server runs it.

    Args:
        folder: the version's.
        engine: what its card says of the engine, see `serving.engines.Engine.to_dict`.

    Raises:
        ArtifactError: damaged, or not to be run on this machine or without a server.
    """
    path, backend = safe_join(folder, engine["file"]), engine["backend"]
    if backend == "onnxruntime":
        from shrinkserve.runtimes.onnx import OnnxModel

        return OnnxModel(path, spin=False)
    if backend == "openvino":
        if find_spec("openvino") is None:
            raise ArtifactError("OpenVINO is not installed", hint="pip install 'shrinkserve[openvino]'")
        from shrinkserve.runtimes.openvino import OpenVinoModel

        hint = engine["parameters"].get("INFERENCE_PRECISION_HINT")
        return OpenVinoModel(path, precision="bf16" if hint == "bf16" else "f32")
    if backend == "tensorrt":
        from shrinkserve.runtimes.tensorrt import gpu, open_plan

        here = engine["capabilities"].get(gpu()["compute_capability"], engine["file"])
        return open_plan(safe_join(folder, here))
    raise ArtifactError(f"backend {backend} cannot be asked without a server")
