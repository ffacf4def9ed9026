from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from shrinkserve.errors import ArtifactError
from shrinkserve.training.plot import plot_run


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
