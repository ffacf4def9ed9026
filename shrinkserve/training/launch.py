"""Start several training processes on this machine through torchrun's launcher, and clean up after them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from shrinkserve import errors
from shrinkserve.config import Recipe
from shrinkserve.errors import ShrinkServeError
from shrinkserve.machine import cores_each
from shrinkserve.terminal import quiet
from shrinkserve.training.loop import Stopped
from shrinkserve.training.options import TrainOptions
from shrinkserve.training.processes.distributed import OWN_STORE, STORE, one_machine, set_environment
from shrinkserve.training.profile import StepProfile
from shrinkserve.training.run_folder.provenance import LAUNCH
from shrinkserve.training.run_folder.result import TrainResult, read_result
from shrinkserve.training.worker import JOB, Job, read_error, read_profile

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose handlers the launcher replaces."""
SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
"""Environment variable that the launcher sets."""


def launch_training(
    recipe: Recipe, data: Path, out: Path, options: TrainOptions, *, nproc: int, max_restarts: int
) -> TrainResult:
    """Train in several processes. See `shrinkserve.training.train.train`."""
    job = Job(sys.argv, recipe.to_dict(), str(data), str(out), options)
    trained = not (out / "card.json").is_file() or not options.resume
    with tempfile.TemporaryDirectory(prefix="shrinkserve-") as folder:
        _launch(job, Path(folder), nproc, max_restarts)
    return read_result(out, trained=trained, verify=False)


def launch_profile(recipe: Recipe, data: Path, *, nproc: int, teacher: str | None = None) -> StepProfile:
    """Profile updates in several processes. See `shrinkserve.training.train.profile_training`."""
    job = Job(sys.argv, recipe.to_dict(), str(data), "", TrainOptions(teacher=teacher), profile=True)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-") as folder:
        _launch(job, Path(folder), nproc, 0)
        return read_profile(Path(folder))


def _launch(job: Job, folder: Path, nproc: int, max_restarts: int) -> None:
    """Run a job in several processes and wait for them; none outlives this call.

    Raises:
        Stopped: a signal ended the launch.
        ShrinkServeError: the error of a process, or a process was killed.
    """
    (folder / JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
    options = ["--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts), "--log-dir", str(folder / "logs")]
    arguments = parse_args([*options, "--module", "shrinkserve.training.worker", str(folder)])  # type: ignore[no-untyped-call]
    # The processes find each other through files in a private folder. --standalone uses a TCP store instead, which
    # listens on all interfaces, has no authentication, and whose content the launcher unpickles.
    arguments.rdzv_backend, arguments.rdzv_conf = "c10d", "store_type=file"
    arguments.rdzv_endpoint = str(folder / "rendezvous")
    names = {OWN_STORE: "1", STORE: str(folder / "ranks"), LAUNCH: secrets.token_hex(8)}
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores_each(nproc))}
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    with (
        set_environment({**names, **threads, SIGNALS: ",".join(number.name for number in HANDLED)}),
        one_machine(),
        # The launcher logs a traceback for each process that failed.
        quiet("torch.distributed.elastic", logging.CRITICAL),
    ):
        config, command, words = config_from_args(arguments)
        try:
            elastic_launch(config, command)(*words)
        except SignalException as exc:
            raise Stopped(exc.sigval) from None
        except ChildFailedError as exc:
            raise _explain(exc, folder) from None
        finally:
            for number, handler in handlers.items():
                _restore(number, handler)


def _restore(number: int, handler: object) -> None:
    try:
        signal.signal(number, handler)  # type: ignore[arg-type]
    except ValueError:  # not in the main thread, where the launcher installs none
        return


def _explain(error: ChildFailedError, folder: Path) -> Exception:
    """Return the error of a process.

    First a process that was killed: the others may only have noticed that. Then what the first process reported.
    """
    for rank, failure in error.failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # torchrun ends the others by SIGTERM
            return ShrinkServeError(
                f"training process {rank} was killed by signal {-failure.exitcode}",
                hint="look for the kernel's out-of-memory killer; give --resume to continue from the last checkpoint",
            )
    if (found := read_error(folder)) is not None:
        kind: type[ShrinkServeError] = getattr(errors, found["kind"], ShrinkServeError)
        return kind(found["message"])
    code = error.get_first_failure()[1].exitcode
    if code > 128:
        return Stopped(code - 128)
    return ShrinkServeError(f"a training process ended with exit code {code}", hint="see its output above")
