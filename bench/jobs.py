"""Training runs in parallel processes, for comparisons with several seeds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

import shrinkserve as ss
from shrinkserve.machine import cores_each


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


def train_all(runs: Sequence[Job], processes: int) -> list[Done]:
    """Train all, `processes` at a time, and return the results in their order."""
    return in_processes(train_one, runs, processes)


def train_one(run: Job) -> Done:
    """Train in this process, on its GPU if there is one."""
    processes = int(os.environ.get("BENCH_PROCESSES", "1"))
    loading = {} if processes == 1 else {"data.workers": min(1, cores_each(processes) - 1)}
    done = ss.train(
        run.recipe,
        run.data,
        run.out,
        overrides={"train.threads": 1, **loading, **run.overrides},
        init=run.init,
        teacher=run.teacher,
        callback=lambda _: None,
    )
    return Done(100 * done.top1, done.seconds)


def in_processes(work: Callable[[Job], Done], runs: Sequence[Job], processes: int) -> list[Done]:
    """Return ``work(run)`` of each, in new processes if there is more than one."""
    if processes == 1:
        return [work(run) for run in runs]
    os.environ |= {"BENCH_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, runs))


def device() -> str:
    """Return the name of the device that the runs compute on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
