"""From a path to something that answers."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.artifact import read_card
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.answerer import Answerer


def open_artifact(path: Path) -> Answerer:
    """Load a run folder, a version folder of a repository, an ONNX file or a TensorRT plan.

    Raises:
        ArtifactError: missing, damaged, of another kind, or a plan that does not fit this machine.
    """
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
