from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from shrinkserve.errors import ArtifactError
from shrinkserve.training.evaluation import EvaluationResult
from shrinkserve.training.plot import plot_confusion, plot_run


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_on_a_full_disk_leaves_no_file(tmp_path: Path, run: Path, suffix: str) -> None:
    plot_run(run, tmp_path / "warm.svg")  # imports and caches fonts
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(ArtifactError, match="cannot be written"):
            plot_run(run, tmp_path / f"c.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["warm.svg"]


@pytest.mark.parametrize("classes", [2, 80])
def test_plot_confusion_draws_any_names(tmp_path: Path, classes: int) -> None:
    names = ["$x_", "\x1b[31m", *map(str, range(classes - 2))]
    found = EvaluationResult(classes, 1.0, 1.0, 1.0, torch.eye(classes, dtype=torch.int64), names)
    assert plot_confusion(found, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
