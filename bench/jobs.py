"""Training runs in parallel processes, for comparisons with several seeds, in one piece or several."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

import shrinkserve as ss
from shrinkserve.atomic import write_atomic
from shrinkserve.machine import cores_each

T = TypeVar("T")
BEGAN = time.time()


@dataclass(frozen=True)
class Job:
    """One training run; its fields are the arguments of `shrinkserve.train`."""

    recipe: str
    data: Path
    out: Path
    overrides: dict[str, object] = field(default_factory=dict)
    init: Path | None = None
    teacher: Path | None = None


@dataclass(frozen=True)
class Done:
    """Top-1 in percent, and the seconds of the run."""

    top1: float
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison that can be interrupted and continued."""
    parser.add_argument("--folder", type=Path, help="keep data and runs here; the same command continues")
    parser.add_argument("--minutes", type=float, help="start no run after this time; the same command continues")


@contextmanager
def work_folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder `kept`, or a temporary one."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as name:
        yield Path(name)


def train_all(runs: Sequence[Job], options: argparse.Namespace) -> list[Done]:
    """Train the runs that have no result yet, and return the results of all in their order.

    The program ends if the time of `--minutes` is over before every run has started.
    """
    todo = [run for run in runs if result_of(run) is None]
    in_processes(train_before, [(run, end_of(options)) for run in todo], min(options.jobs, len(todo)))
    done = [found for run in runs if (found := result_of(run)) is not None]
    if len(done) < len(runs):
        sys.exit(f"{len(runs) - len(done)} of {len(runs)} runs are left: start the same command again")
    return done


def end_of(options: argparse.Namespace) -> float:
    """Return the time after which no run starts."""
    return BEGAN + 60 * (options.minutes or float("inf"))


def train_before(work: tuple[Job, float]) -> None:
    """Train one run and keep its result, unless the time is over."""
    run, end = work
    if time.time() < end:
        done = train_one(run)
        keep(run.out, run, [done.top1, done.seconds])
        print(f"{run.out.name}: {done.top1:.1f} %, {done.seconds:.0f} s", flush=True)


def train_one(run: Job) -> Done:
    """Train in this process, on its GPU if there is one."""
    processes = int(os.environ.get("BENCH_PROCESSES", "1"))
    loading = {} if processes == 1 else {"data.workers": min(1, cores_each(processes) - 1)}
    began = time.monotonic()
    done = ss.train(
        run.recipe,
        run.data,
        run.out,
        overwrite=True,
        overrides={"train.threads": 1, **loading, **run.overrides},
        init=run.init,
        teacher=run.teacher,
        callback=lambda _: None,
    )
    return Done(100 * done.top1, time.monotonic() - began)


def result_of(run: Job) -> Done | None:
    """Return the result that was kept for a run, None if there is none."""
    found = kept(run.out, run)
    return None if found is None else Done(*found)


def keep(out: Path, arguments: object, figures: Any) -> None:
    """Write the figures of `out` with the arguments that they were measured with."""
    text = json.dumps({"arguments": repr(arguments), "figures": figures})
    write_atomic(out.parent / f"{out.name}.done.json", text.encode())


def kept(out: Path, arguments: object) -> Any:
    """Return the figures that `keep` wrote for the same arguments, None if there are none."""
    path = out.parent / f"{out.name}.done.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["figures"] if found.get("arguments") == repr(arguments) else None


def in_processes(work: Callable[[T], None], runs: Sequence[T], processes: int) -> None:
    """Call ``work(run)`` for each, in new processes if there is more than one."""
    if processes <= 1:
        for run in runs:
            work(run)
        return
    os.environ |= {"BENCH_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(work, runs))


def device() -> str:
    """Return the name of the device that the runs compute on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
