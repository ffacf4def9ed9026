"""From a path to something that answers."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.answerer import Answerer


def open_artifact(path: Path) -> Answerer:
    """Load a run folder or an ONNX file.

    Raises:
        ArtifactError: missing, damaged, or of another kind.
    """
    if path.is_dir():
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return Checkpoint(path)
    if path.suffix == ".onnx":
        from shrinkserve.runtimes.onnx import OnnxModel

        return OnnxModel(path)
    expected = "a run folder or an .onnx file"
    raise ArtifactError(f"{path}: not an artifact that can be asked", expected=expected, found=path.suffix or "a file")
