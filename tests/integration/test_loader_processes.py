"""A loader process that is killed during training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.parametrize("processes", [1, 2])
def test_training_ends_with_one_line_when_a_loader_process_is_killed(
    digits: Path, tmp_path: Path, processes: int
) -> None:
    options = ["--set", "data.workers=1", "--set", "data.loader=portable", "--set", "schedule.epochs=100"]
    ranks = [] if processes == 1 else ["--nproc", str(processes)]
    command = ["train", "smoke", "--data", digits, "--out", tmp_path / "run", *options, *ranks]
    with subprocess.Popen(
        [sys.executable, "-m", "shrinkserve", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as training:
        try:
            victim = loader_process(training)
            os.kill(victim, signal.SIGKILL)
            _, errors = training.communicate(timeout=60)
        finally:
            training.kill()
    assert training.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "was killed by SIGKILL" in lines[0]
    assert "Traceback" not in errors
    assert not psutil.pid_exists(victim)


def loader_process(training: subprocess.Popen[str]) -> int:
    """Wait for the first loader process: a child of a rank with the rank's own command line."""
    parent = psutil.Process(training.pid)
    while training.poll() is None:
        for child in parent.children(recursive=True):
            try:
                rank = child.parent()
                forked = rank is not None and child.cmdline() == rank.cmdline() and child.cmdline()
            except psutil.Error:
                continue
            if forked and (rank.pid == training.pid or rank.ppid() == training.pid):
                return int(child.pid)
    raise AssertionError(f"training ended early: {training.stderr and training.stderr.read()}")
