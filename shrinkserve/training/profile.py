"""Profile an update: the time of each of its parts."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from shrinkserve.config import Recipe
from shrinkserve.data import TrainBatch
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.terminal import print_line
from shrinkserve.training.inputs import open_inputs
from shrinkserve.training.loader_choice import choose_loader
from shrinkserve.training.processes.distributed import DistContext, join
from shrinkserve.training.processes.torch_settings import torch_settings
from shrinkserve.training.update.prefetch import transferred
from shrinkserve.training.update.teacher import Teacher
from shrinkserve.training.update.train_state import TrainState

WARM_UP, STEPS = 3, 12
WAIT = "wait for data"


@dataclass(frozen=True)
class StepProfile:
    """Medians over `STEPS` updates on rank 0.

    Attributes:
        seconds: by part of an update, each part alone; "all-reduce" exchanges all gradients at once.
        update: seconds of an update as in training, where gradients are exchanged during the backward pass.
        images_per_second: of all processes, data and update.
        processes: of the run.
        threads: of torch, per process.
        device: where a process computes.
    """

    seconds: dict[str, float]
    update: float
    images_per_second: float
    processes: int
    threads: int
    device: str


def profile_here(recipe: Recipe, data: Path, teacher: str | Predictor | None = None) -> StepProfile:
    """Profile updates in this process. See `shrinkserve.training.train.profile_training`."""
    with torch_settings(deterministic=recipe.train.deterministic), join(recipe.train.threads) as ranks:
        inputs = open_inputs(recipe, data, rank=ranks.rank, world=ranks.world, colour_on_device=ranks.on_gpu)
        inputs = inputs.with_loader(choose_loader(recipe, inputs.training, ranks, print_line), ranks)
        state, loader = TrainState(inputs.spec, recipe, ranks), inputs.loader()
        learned = None if teacher is None else Teacher(teacher, inputs.classes, ranks.device)
        taken: dict[str, list[float]] = defaultdict(list)
        epoch, batches = 0, iter(loader.epoch(0))
        for step in range(WARM_UP + STEPS):
            clock = _Clock(ranks.device)
            while (batch := next(batches, None)) is None:
                epoch += 1
                batches = iter(loader.epoch(epoch))
            times = {WAIT: clock.lap()}
            if learned is not None:
                learned.logits(transferred(batch, ranks.device).images)
                times["teacher (in a thread)"] = clock.lap()
            times |= _parts(state, ranks, batch, clock)
            clock.lap()
            state.update([batch], step, recipe.optimizer.lr * 1e-3)
            times["update"] = clock.lap()
            if step >= WARM_UP:
                for part, seconds in times.items():
                    taken[part].append(seconds)
        medians = {part: statistics.median(values) for part, values in taken.items()}
        update = medians.pop("update")
        speed = recipe.train.batch_size * ranks.world / (update + medians[WAIT])
        return StepProfile(medians, update, speed, ranks.world, torch.get_num_threads(), str(ranks.device))


def _parts(state: TrainState, ranks: DistContext, batch: TrainBatch, clock: _Clock) -> dict[str, float]:
    """Run the parts of one update, and wait for each."""
    placed = state.place(batch)
    state.normalised(placed.images)
    times = {"copy, normalise": clock.lap()}
    with state.alone():
        loss, _ = state.loss(placed.images, placed.labels)
        times["forward"] = clock.lap()
        state.backward(loss)
    times["backward"], times["all-reduce"] = clock.lap(), 0.0
    if ranks.world > 1:
        gradients = torch.cat([p.grad.flatten() for p in state.network.parameters() if p.grad is not None])
        clock.lap()  # no part of an update, which exchanges gradients where they are
        dist.all_reduce(gradients)
        times["all-reduce"] = clock.lap()
    state.apply(0.0)
    times["optimiser, EMA"] = clock.lap()
    return times


class _Clock:
    """Measure laps in seconds; each lap waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, time.perf_counter()

    def lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._last = self._last, time.perf_counter()
        return self._last - before
