"""Fixtures that run the main stages once per test run, and the settings of hypothesis."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.database import DirectoryBasedExampleDatabase, MultiplexedDatabase, ReadOnlyDatabase

from shrinkserve.cli import main
from shrinkserve.garbage import collect_rarely

# The compiled operators of PyPI's torchvision do not load with the CPU build of torch. Its transforms, and timm, are
# Python code that does not use them, but importing the package registers their meta functions, which fails.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))

if not ("-m" in sys.argv and "gpu" in sys.argv[sys.argv.index("-m") + 1 :]):
    # Only `pytest -m gpu` uses a GPU: the other tests start several ranks on one machine, and compare with the CPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP threads that spin while they wait take the cores
collect_rarely()  # a tenth of the CPU time of tests that export
# Tests send these signals; a shell ignores SIGINT for background jobs, nohup ignores SIGHUP, and children inherit both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

CORPUS = DirectoryBasedExampleDatabase(Path(__file__).parent / "corpus" / "hypothesis")
"""Examples that failed. `make test-slow` adds to it, every test run replays it, until the property is edited."""
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
"""How long each property is tested; 0 for hypothesis's number of examples."""
EXIT_SECONDS = 60.0
"""Time that Python has to exit after the last test."""
MAX_FUZZ_MEMORY = 1 << 30
"""Bytes by which the process may grow while it fuzzes a property. pytest's --timeout limits the time of an example."""

# No deadline: the time of an example depends on the load of the machine.
local = MultiplexedDatabase(ReadOnlyDatabase(CORPUS), DirectoryBasedExampleDatabase(Path(".hypothesis/examples")))
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=local)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=1000, database=CORPUS)
settings.load_profile("fuzz" if FUZZ_SECONDS else "default")


def pytest_unconfigure() -> None:
    """End a test run that does not end by itself, for example because a test left a process or a thread."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=sys.__stderr__)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Repeat a property with new examples for `FUZZ_SECONDS`."""
    if not (FUZZ_SECONDS and is_hypothesis_test(pyfuncitem.obj)):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    end, before = time.monotonic() + FUZZ_SECONDS, peak_memory()
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    assert peak_memory() - before < MAX_FUZZ_MEMORY, "an example took too much memory"
    return True


def peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.fixture(scope="session")
def shrinkserve() -> Callable[..., None]:
    """Function that runs a command line in this process and expects success."""

    def run(*argv: object) -> None:
        words = [str(word) for word in argv]
        assert main(words) == 0, f"shrinkserve {' '.join(words)}"

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None]) -> Path:
    """scikit-learn's digits as TFRecord shards. Read-only."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    shrinkserve("data", "digits", folder)
    return folder


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None], digits: Path) -> Path:
    """Run folder of a tiny network that was trained for seconds. Read-only."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    shrinkserve("train", "smoke", "--data", digits, "--out", folder)
    return folder


@pytest.fixture(scope="session")
def smoke_repository(
    tmp_path_factory: pytest.TempPathFactory, shrinkserve: Callable[..., None], digits: Path, smoke_run: Path
) -> Path:
    """Model repository with the tiny network as model `smoke`, version 1. Read-only."""
    folder = tmp_path_factory.mktemp("repository")
    shrinkserve("export", smoke_run, "--data", digits, "--repository", folder)
    return folder
