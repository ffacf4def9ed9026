"""Many processes on this machine: what ``torchrun`` does, started from here and cleaned up after."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from shrinkserve import errors
from shrinkserve.errors import ShrinkServeError
from shrinkserve.machine import cores_each
from shrinkserve.training.distributed import OWN_STORE, STORE, one_machine

FAULTS = "SHRINKSERVE_FAULTS"
"""Environment variable: the folder where a launched process leaves its error, so that it is told once."""


def launch(argv: Sequence[str], processes: int, *, restarts: int = 0) -> int:
    """Run ``shrinkserve ARGV`` in several processes and wait for them; none outlives this call.

    Args:
        argv: the command line of each process.
        processes: how many.
        restarts: how often all are started again after one was lost.

    Returns:
        The exit code: 0, that of the process that failed first, or 128 + the signal that ended the launch.

    Raises:
        ShrinkServeError: what a process raised, once; or that one was killed.
    """
    # The launcher's own log tells of every failed process with a traceback of its own.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    arguments = parse_args([*options, "--module", "shrinkserve", *argv])  # type: ignore[no-untyped-call]
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_each(processes)))
    os.environ[OWN_STORE] = "1"  # processes that are started again must not find what lost ones left
    with tempfile.TemporaryDirectory(prefix="shrinkserve-") as faults, one_machine():
        # The processes find each other through files in a private folder. --standalone uses a TCP store instead: it
        # listens on all interfaces, has no authentication, and the launcher unpickles its content.
        arguments.rdzv_backend, arguments.rdzv_conf = "c10d", "store_type=file"
        arguments.rdzv_endpoint = str(Path(faults) / "rendezvous")
        os.environ[FAULTS], os.environ[STORE] = faults, str(Path(faults) / "ranks")
        config, command, words = config_from_args(arguments)
        try:
            elastic_launch(config, command)(*words)
        except SignalException as exc:
            return 128 + exc.sigval
        except ChildFailedError as exc:
            return _tell(exc, Path(faults))
        finally:
            del os.environ[FAULTS], os.environ[STORE]
    return 0


def _tell(error: ChildFailedError, faults: Path) -> int:
    """Raise what a process left for us; else give its exit code."""
    # First what began it: a process that was killed; then what others say, who may only have noticed that.
    for rank, failure in error.failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # SIGTERM is how torchrun ends the others
            raise ShrinkServeError(
                f"training process {rank} was killed by signal {-failure.exitcode}",
                hint="look for the kernel's out-of-memory killer; give --resume to go on from the last checkpoint",
            ) from None
    for path in sorted(faults.glob("*.json"), key=lambda p: p.stat().st_mtime_ns):
        raw = json.loads(path.read_text(encoding="utf-8"))
        raise getattr(errors, raw["kind"], ShrinkServeError)(raw["message"])
    return error.get_first_failure()[1].exitcode


def leave_fault(error: ShrinkServeError) -> bool:
    """In a launched process: leave the error to the launcher; False where there is none that collects it."""
    folder = os.environ.get(FAULTS)
    if folder is None:
        return False
    content = {"kind": type(error).__name__, "message": str(error)}
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
    path.with_suffix(".part").write_text(json.dumps(content), encoding="utf-8")
    path.with_suffix(".part").rename(path)
    return True
