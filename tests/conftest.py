"""Fixtures that walk the main path once a test run: digits, a short training, an export, a server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shrinkserve.cli import main

if not ("-m" in sys.argv and "gpu" in sys.argv[sys.argv.index("-m") + 1 :]):
    # Only `pytest -m gpu` uses a GPU: the other tests start several ranks on one machine, and compare with the CPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP threads that spin while they wait starve each other
# A shell starts what runs in its background with Ctrl-C ignored, and nohup ignores the hang-up; children inherit both,
# and tests send them such signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session")
def shrinkserve() -> Callable[..., None]:
    """Run a command line in this process and expect it to succeed."""

    def run(*argv: object) -> None:
        words = [str(word) for word in argv]
        assert main(words) == 0, f"shrinkserve {' '.join(words)}"

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None]) -> Path:
    """scikit-learn's digits as TFRecord shards. Read only."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    shrinkserve("data", "digits", folder)
    return folder


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None], digits: Path) -> Path:
    """The run folder of a tiny network that was trained for seconds. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    shrinkserve("train", "smoke", "--data", digits, "--out", folder)
    return folder


@pytest.fixture(scope="session")
def smoke_repository(
    tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None], digits: Path, smoke_run: Path
) -> Path:
    """A model repository that holds the tiny network as model `smoke`, version 1. Read only."""
    folder = tmp_path_factory.mktemp("repository")
    shrinkserve("export", smoke_run, "--data", digits, "--repository", folder)
    return folder
