"""Find models that run code of the repository."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.engines import SUFFIXES
from shrinkserve.errors import ShrinkServeError
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.repository.dali_pipeline import pipeline_source
from shrinkserve.serving.repository.engine_config import CONFIGS
from shrinkserve.serving.repository.ensemble import PIPELINE_SOURCE, is_approximate

KNOWN = frozenset({*SUFFIXES, "dali", "ensemble", "onnxruntime_onnx", "tensorrt_plan"})
"""Backends (and Triton's older platforms) whose models are data: those of `engines` and of `ensemble`."""
CODE = frozenset({".py", ".pyc", ".so"})


def runs_code(folder: Path) -> str | None:
    """Return why loading a model would run code of its folder or of an unknown backend; None if it would not.

    Raises:
        ArtifactError: a configuration that cannot be read.
    """
    for path in sorted(file for file in folder.rglob("*") if file.suffix in CODE):
        if not _is_our_pipeline(folder, path):
            return str(path.relative_to(folder))
    for path in (folder / model_config.CONFIG, *sorted((folder / CONFIGS).glob("*.pbtxt"))):
        config = config_text.read_config(path)
        kind = config.backend or config.platform
        if kind not in KNOWN or config.runtime:
            return f"{path.relative_to(folder)}: backend {kind or config.runtime or 'not given'}"
        if file := model_config.unsafe_file(config):
            return f"{path.relative_to(folder)}: file name {file!r}"
    return None


def _is_our_pipeline(folder: Path, path: Path) -> bool:
    """Return True if a file is the ``dali.py`` that shrinkserve writes for the model's contract."""
    if path.name != PIPELINE_SOURCE:
        return False
    try:
        config = config_text.read_config(folder / model_config.CONFIG)
        preprocess, approximate = model_config.preprocess_of(config), is_approximate(folder)
        return path.read_bytes() == pipeline_source(preprocess, config.max_batch_size, approximate=approximate)
    except (OSError, ShrinkServeError):
        return False
