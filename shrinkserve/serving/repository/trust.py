"""Tell models that are data from models that run code."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.engines import FILE, SUFFIXES
from shrinkserve.serving import model_config
from shrinkserve.serving.repository.engine_config import CONFIGS

KNOWN = frozenset({*SUFFIXES, "dali", "ensemble", "onnxruntime_onnx", "tensorrt_plan"})
"""Backends (and Triton's older platforms) whose models are data: those of `engines`, and what `jpeg` writes."""
CODE = frozenset({".py", ".pyc", ".so"})


def runs_code(folder: Path) -> str | None:
    """Return why loading a model's folder would run code that is in it or that we do not know; None when it would not.

    Raises:
        ArtifactError: a configuration that cannot be read.
    """
    for path in sorted(file for file in folder.rglob("*") if file.suffix in CODE):
        return str(path.relative_to(folder))
    for path in (folder / model_config.CONFIG, *sorted((folder / CONFIGS).glob("*.pbtxt"))):
        config = model_config.read_config(path)
        kind = config.backend or config.platform
        if kind not in KNOWN or config.runtime:
            return f"{path.relative_to(folder)}: backend {kind or config.runtime or 'not given'}"
        for file in (config.default_model_filename, *config.cc_model_filenames.values()):
            if file and not FILE.fullmatch(file):  # Triton's Python backend puts it into a shell command
                return f"{path.relative_to(folder)}: file name {file!r}"
    return None
