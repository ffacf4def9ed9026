"""Compare the trainer's update with a plain loop and with timm's on the same network, and two processes with one.

    python bench/training.py --out bench/results/training.json [--quick]

Runs on the GPU if there is one, else on the CPU. All take turns in one process, after a warm-up, on one batch of random
pixels at 224x224; figures are medians. The loss curves are of the digits at 32x32 with several seeds, because a faster
update must also learn equally well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in `shrinkserve train`; for all contestants

import numpy as np
import torch
from loader import import_torchvision_transforms
from network import QUICK
from training_peers import Plain, Timm

import shrinkserve as ss
from shrinkserve import arch
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import TrainBatch, open_dataset, train_loader
from shrinkserve.data.digits import write_digits
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.update.train_state import TrainState

Step = Callable[[TrainBatch], float]
Model = dict[str, Any]
"""Recipe section."""
LARGE: Model = {"input_size": 224, "width": 1.0}
SMALL: Model = {"input_size": 32, "width": 0.5}
PLAIN = "plain loop"
OURS = {"ours, float32": "float32", "ours, bfloat16": "bfloat16"}


def ours(recipe: Recipe, classes: int, ranks: Any) -> Step:
    learner = TrainState(arch.from_recipe(recipe.model, classes), recipe, ranks)
    rate = recipe.optimizer.lr * recipe.train.batch_size / 256

    def step(batch: TrainBatch) -> float:
        learner.update([batch], 1, rate)
        return learner.running.report(ranks)[0]

    return step


def recipe_for(model: Model, batch: int, seed: int, **train: Any) -> Recipe:
    data = {"loader": "portable", "workers": 0}
    train = {"batch_size": batch, "seed": seed, **train}
    plain = {"random_interpolation": False, "flip": False, "hue": 0.0, "erase_probability": 0.0}
    # No L2: the plain loop has no table of the weights that it applies to.
    return parse_recipe(
        {
            "name": "bench",
            "model": {**model, "batch_norm_decay": 0.9},
            "augment": plain,
            "optimizer": {"l2": 0.0},
            "train": train,
            "data": data,
        }
    )


def steps_for(model: Model, batch: int, seed: int, classes: int, ranks: Any, *, timm: bool = True) -> dict[str, Step]:
    recipe = recipe_for(model, batch, seed)
    steps: dict[str, Step] = {PLAIN: Plain(recipe, classes, ranks.device)}
    if timm and find_spec("timm") is not None:
        import_torchvision_transforms()  # imported by timm
        steps["timm's train.py, its defaults"] = Timm(recipe, classes, ranks.device, amp=False)
        steps["timm's train.py, --amp --channels-last"] = Timm(recipe, classes, ranks.device, amp=True)
    for name, precision in OURS.items():
        steps[name] = ours(recipe_for(model, batch, seed, precision=precision), classes, ranks)
    return steps


def speeds(ranks: Any, rounds: int, model: Model, batch: int) -> list[dict[str, Any]]:
    """Return images per second; the steps take turns."""
    rng, size = np.random.default_rng(0), model["input_size"]
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, 1001, batch)
    data = TrainBatch(images, labels, np.arange(batch))
    steps = steps_for(model, batch, 0, 1001, ranks)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(data)
            if round_number:  # the first is the warm-up
                taken[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    return [
        {
            "what": f"update at {size}x{size}, batch {batch}",
            "who": name,
            "images_per_second": batch / seconds[name],
            "fastest": batch / min(taken[name]),
            "slowest": batch / max(taken[name]),
            "times_plain": seconds[PLAIN] / seconds[name],
        }
        for name in steps
    ]


def curves(ranks: Any, data: Path, model: Model, updates: int, seeds: int) -> list[dict[str, Any]]:
    """Return the mean loss of the last third of the updates at 32x32, for each seed."""
    dataset = open_dataset(data, "train")
    losses: dict[str, list[float]] = {}
    for seed in range(seeds):
        loader = train_loader(dataset, recipe_for(model, 64, seed))
        batches = [batch for epoch in range(updates // len(loader) + 1) for batch in loader.epoch(epoch)][:updates]
        for name, step in steps_for(model, 64, seed, len(dataset.classes), ranks, timm=False).items():
            curve = [step(batch) for batch in batches]
            losses.setdefault(name, []).append(statistics.mean(curve[-updates // 3 :]))
    return [
        {
            "what": f"loss of updates {updates - updates // 3}..{updates}, digits at 32x32, batch 64, {seeds} seeds",
            "who": name,
            "mean": statistics.mean(values),
            "lowest": min(values),
            "highest": max(values),
        }
        for name, values in losses.items()
    ]


def scaling(data: Path, model: Model, batch: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Profile the trainer with these numbers of processes, with one thread each."""
    rows: list[dict[str, Any]] = []
    size = model["input_size"]
    settings = {f"model.{key}": value for key, value in model.items()}
    settings |= {"train.batch_size": batch, "train.threads": 1, "train.precision": "bfloat16"}
    for processes in counts:
        found = ss.profile_training(ss.load_recipe("digits", settings), data, nproc=processes)
        rows.append(
            {
                "what": f"train --profile at {size}x{size}, bfloat16, batch {batch} and 1 thread a process",
                "who": f"{processes} process{'es' if processes > 1 else ''}",
                "images_per_second": found.images_per_second,
                "milliseconds": {name: 1e3 * seconds for name, seconds in found.seconds.items()},
            }
        )
    for row in rows[1:]:
        row["times_one"] = row["images_per_second"] / rows[0]["images_per_second"]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small network, one round, no scaling at 224x224")
    options = parser.parse_args()
    place = plain(environment("timm"))
    rounds, updates, seeds, batch = (1, 6, 1, 4) if options.quick else (7, 66, 3, 32)
    large, small, scaled = LARGE, SMALL, ((SMALL | {"width": 1.0}, 32), (LARGE, 8))
    if options.quick:
        large = small = {"network": QUICK.source, "input_size": QUICK.size, "width": 1.0}
        scaled = ((small, 32),)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "digits"
        write_digits(data)
        with join(threads=2) as ranks:
            threads = torch.get_num_threads()
            rows = speeds(ranks, rounds, large, batch)
        with join(threads=1) as ranks:
            rows += curves(ranks, data, small, updates, seeds)
        for model, images in scaled:
            rows += scaling(data, model, images, (1,) if options.quick else (1, 2))
    result = {
        "title": "Training update and scaling",
        "date": place["date"],
        "command": place["command"],
        "environment": place,
        "rows": rows,
        "notes": [
            f"In the first table the updates take turns in one process, {threads} threads each; medians of {rounds}.",
            "The plain loop: eager, NCHW, float32, tensor by tensor; the same network, optimiser and EMA formula.",
            "timm's: RMSpropTF, ModelEmaV3, label smoothing; by default float32 and NCHW, and with bfloat16 AMP.",
            f"Loss: the mean over the last third of {updates} updates; lowest and highest of {seeds} seeds; 1 thread.",
            "OMP_WAIT_POLICY=passive for all, as `shrinkserve train` sets it.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for row in rows:
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
