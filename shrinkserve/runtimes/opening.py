"""Open artifacts for prediction."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from shrinkserve.artifact import MODEL, read_card, safe_join
from shrinkserve.engines import Engine, engines_of, find_engine
from shrinkserve.errors import ArtifactError
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.predictor import Predictor


def open_artifact(path: StrPath) -> Predictor:
    """Load a run folder, a version folder of a repository, an ONNX file or a TensorRT plan.

    Args:
        path: the artifact. ``VERSION@ENGINE``, e.g. ``digits_classifier/1@bfloat16``, is another engine of a version,
            as a server runs it. ``RUN@raw`` is the run with the optimiser's last weights.

    Returns:
        A model with `size`, `classes` and `predict`, from uint8 images [N, S, S, 3] to logits [N, classes].

    Raises:
        ArtifactError: missing, damaged, not an artifact, or an engine that this machine cannot run.
    """
    path = Path(path)
    folder, at, part = path.name.rpartition("@")
    if at and not path.exists() and path.with_name(folder).is_dir():
        return _open_part(path.with_name(folder), part)
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder", hint="name what `train` or `export` wrote")
    if path.is_dir():
        if read_card(path, verify=False).kind == "onnx":
            return open_artifact(path / MODEL)
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return Checkpoint(path)
    if path.suffix == ".onnx":
        from shrinkserve.runtimes.onnx import OnnxModel

        return OnnxModel(path)
    if path.suffix == ".plan":
        from shrinkserve.runtimes.tensorrt import open_plan

        return open_plan(path)
    expected = "a run folder, a version folder, an .onnx file or a .plan file"
    raise ArtifactError(f"{path}: not an artifact", expected=expected, found=path.suffix or "a file")


def _open_part(folder: Path, name: str) -> Predictor:
    """Open a run's weights or a version's engine by name."""
    card = read_card(folder, verify=False)
    if card.kind != "onnx":
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return Checkpoint(folder, name)
    engine = find_engine(card, name)
    if engine is None:
        names = ", ".join(one.name for one in engines_of(card))
        hint = f"add one with `shrinkserve export {folder} --to ...`"
        raise ArtifactError(f"{folder}: no such engine", expected=names or "no engine at all", found=name, hint=hint)
    return open_engine(folder, engine)


def open_engine(folder: Path, engine: Engine) -> Predictor:
    """Load an engine of a version as a server runs it.

    Args:
        folder: of the version.
        engine: the engine, from its card.

    Raises:
        ArtifactError: damaged, or this machine cannot run it without a server.
    """
    path = safe_join(folder, engine.file)
    if engine.backend == "onnxruntime":
        from shrinkserve.runtimes.onnx import OnnxModel

        return OnnxModel(path, spin=False)
    if engine.backend == "openvino":
        if find_spec("openvino") is None:
            raise ArtifactError("OpenVINO is not installed", hint="pip install 'shrinkserve[openvino]'")
        from shrinkserve.runtimes.openvino import OpenVinoModel

        hint = engine.parameters.get("INFERENCE_PRECISION_HINT")
        return OpenVinoModel(path, precision="bf16" if hint == "bf16" else "f32")
    if engine.backend == "tensorrt":
        from shrinkserve.runtimes.tensorrt import gpu, open_plan

        file = engine.capabilities.get(gpu()["compute_capability"] or "", engine.file)
        return open_plan(safe_join(folder, file))
    raise ArtifactError(f"backend {engine.backend} needs a server", hint="compare with the server's URL")
