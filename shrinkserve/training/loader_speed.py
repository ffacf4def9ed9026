"""Measure the speed of a loader: ``python -m shrinkserve.training.loader_speed FOLDER``.

`shrinkserve.training.loader_choice` starts this program for each loader. A library that crashes or hangs does
so in that process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

import torch

from shrinkserve.atomic import write_atomic
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import TrainBatch, TrainLoader, open_dataset, train_loader
from shrinkserve.data.loaders import available_workers
from shrinkserve.toml import validate
from shrinkserve.training.processes.signals import kill_children
from shrinkserve.training.update.prefetch import on_device

JOB, SPEED = "job.json", "speed.json"
SECONDS = 2.0
BATCHES = 3
"""A measurement takes at least `SECONDS` and has at least this number of batches."""


@dataclass(frozen=True)
class SpeedJob:
    """Description of a measurement.

    Attributes:
        recipe: `Recipe.to_dict`, with the loader.
        data: root of the dataset.
        limit: seconds after which the process ends itself, so that it never outlives a parent that was killed.
    """

    recipe: dict[str, object]
    data: str
    limit: float


@dataclass(frozen=True)
class LoaderSpeed:
    """Result of a measurement: the speed, or why there is none."""

    images_per_second: float = 0.0
    error: str = ""


def measure_loader(recipe: Recipe, data: Path) -> float:
    """Return the images/s of the recipe's loader, up to batches on the device where this process would train.

    The batches of the two loaders are different, so that none finds the other's files in memory.

    Raises:
        ShrinkServeError: the loader cannot be used.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    loader = train_loader(open_dataset(data, "train"), recipe, colour_on_device=device.type == "cuda")
    start = len(loader) // 2 if recipe.data.loader == "dali" else 0
    batches = on_device(_endless(loader, start), device)
    workers = available_workers() if recipe.data.workers is None else recipe.data.workers
    for _ in islice(batches, max(2, workers)):  # processes start, and the first batches of all come at once
        pass
    began = _now(device)
    images = 0
    for number, batch in enumerate(batches, start=1):
        images += len(batch)
        if number >= BATCHES and time.perf_counter() - began >= SECONDS:
            break
    return images / (_now(device) - began)


def _endless(loader: TrainLoader, start: int) -> Iterator[TrainBatch]:
    for number in count():
        yield from loader.epoch(number, start)
        start = 0


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(folder: Path) -> None:
    """Measure the loader of the job in `folder`."""
    job = validate(SpeedJob, json.loads((folder / JOB).read_text(encoding="utf-8")), JOB)
    signal.setitimer(signal.ITIMER_REAL, job.limit)
    try:
        speed = LoaderSpeed(measure_loader(parse_recipe(job.recipe, JOB), Path(job.data)))
    except Exception as exc:  # noqa: BLE001 - whatever is wrong with a loader, the other one is used
        speed = LoaderSpeed(error=" ".join(f"{type(exc).__name__}: {exc}".split())[:200])
    write_atomic(folder / SPEED, json.dumps(asdict(speed)).encode())


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main(Path(sys.argv[1]))
    kill_children()
    os._exit(0)  # threads of a loader must not delay the end
