"""Sources of `export`: a run, a network of timm, or an ONNX classifier of another tool."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import Weights
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath, optional_path
from shrinkserve.preprocess.timm_config import TIMM

if TYPE_CHECKING:
    from shrinkserve.exporting.exporter import Exported, ExportOptions


@dataclass(frozen=True)
class RunSource:
    """A run folder. Its card has the model's name."""

    folder: Path
    weights: Weights
    default_name: None = None

    def __str__(self) -> str:
        return str(self.folder)

    def export(self, folder: Path, options: ExportOptions) -> Exported:
        """Export into a folder."""
        from shrinkserve.exporting.run_export import export_run
        from shrinkserve.runtimes.checkpoint import Checkpoint

        return export_run(Checkpoint(self.folder, self.weights, run_code=True), folder, options)


@dataclass(frozen=True)
class TimmSource:
    """A network of timm, ``timm:NAME``."""

    network: str
    checkpoint: Path | None
    labels: Path

    def __str__(self) -> str:
        return self.network

    @property
    def default_name(self) -> str:
        return self.network.removeprefix(TIMM)

    def export(self, folder: Path, options: ExportOptions) -> Exported:
        """Export into a folder."""
        from shrinkserve.exporting.foreign.description import read_labels
        from shrinkserve.exporting.timm_export import export_timm

        return export_timm(self.network, self.checkpoint, read_labels(self.labels), folder, options)


@dataclass(frozen=True)
class FileSource:
    """An ONNX file. Its metadata may have the preprocessing and the class names."""

    path: Path
    preprocess: StrPath | None
    labels: Path | None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def default_name(self) -> str:
        return self.path.stem

    def export(self, folder: Path, options: ExportOptions) -> Exported:
        """Export into a folder."""
        from shrinkserve.exporting import graph
        from shrinkserve.exporting.foreign.description import WAYS, read_labels, read_preprocess
        from shrinkserve.exporting.foreign.export import export_foreign
        from shrinkserve.runtimes.metadata import read_description

        own = read_description(graph.load(self.path).metadata_props, str(self.path))
        preprocess = read_preprocess(self.preprocess) if self.preprocess else own.preprocess
        classes = read_labels(self.labels) if self.labels else own.classes
        if preprocess is None:
            raise ConfigError("--onnx", expected=f"--preprocess with it: {WAYS}", found="no --preprocess")
        if classes is None:
            raise ConfigError("--onnx", expected="--labels FILE with it: class names, one a line", found="no --labels")
        own.check(preprocess, classes, self.path)
        return export_foreign(self.path, preprocess, classes, folder, options)


def find_source(
    run: StrPath | None,
    onnx: StrPath | None,
    *,
    weights: Weights,
    preprocess: StrPath | None,
    labels: StrPath | None,
    checkpoint: StrPath | None,
) -> RunSource | TimmSource | FileSource:
    """Return the source that the options of `export` name.

    Raises:
        ConfigError: no source, two sources, or an option that does not fit the source.
    """
    if (run is None) == (onnx is None):
        found = "more than one" if onnx else "none of them"
        raise ConfigError("export", expected="a run folder, timm:NAME or --onnx FILE", found=found)
    named = "" if run is None else os.fspath(run)
    timm = named if named.startswith(TIMM) else None
    if checkpoint and not timm:
        raise ConfigError("--checkpoint", expected="only with timm:NAME")
    if weights != "ema" and (onnx or timm):
        raise ConfigError("--weights", expected="only with a run", found=onnx or timm)
    if onnx is not None:
        return FileSource(Path(onnx), preprocess, optional_path(labels))
    if timm:
        if preprocess:
            raise ConfigError("--preprocess", expected="only with --onnx", found=f"{timm}, which has its own")
        if not labels:
            raise ConfigError(timm, expected="--labels FILE with it: class names, one a line", found="no --labels")
        return TimmSource(timm, optional_path(checkpoint), Path(labels))
    if preprocess or labels:
        raise ConfigError("--preprocess and --labels", expected="only with --onnx", found="a run, which has its own")
    assert run is not None
    return RunSource(Path(run), weights)
