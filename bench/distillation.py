"""Measure distillation and the cost of mixing images, on the digits.

    python bench/distillation.py --out bench/results/distillation.json [--quick] [--widths 0.25 0.5] [--jobs 2]

A teacher of width 1 is trained on the digits. Then students of a smaller width are trained with and without it, with
the same recipe, order of images and number of updates. The cost of mixup and cutmix is the time of an update with them
against one without, in turn. A GPU is used where there is one; hide it with CUDA_VISIBLE_DEVICES="".
With --folder and --minutes the comparison can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from jobs import Done, Job, add_options, device, keep, kept, train_all, work_folder
from network import QUICK

from shrinkserve import arch
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.data import TrainBatch
from shrinkserve.data.digits import write_digits
from shrinkserve.training.processes.distributed import DistContext, join
from shrinkserve.training.processes.torch_settings import torch_settings
from shrinkserve.training.update.train_state import TrainState

KINDS = ("distilled", "plain")
MIXING = {
    "none": ["augment.mixup=0", "augment.cutmix=0"],
    "mixup": ["augment.mixup=0.2", "augment.cutmix=0"],
    "cutmix": ["augment.mixup=0", "augment.cutmix=1"],
}
CLASSES = 100
Row = dict[str, object]
Figures = dict[str, dict[str, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--epochs", type=int, default=6, help="of a student; the teacher has twice as many")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 0.5], help="of the students")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    add_options(parser)
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.widths, options.seeds = 1, [0.25], 1
    about = plain(environment())
    with work_folder(options.folder) as folder:
        teacher, rows = students(folder, options)
        rows += mixing_rows(folder, options.quick)
    result = {
        "title": "Distillation, and the cost of mixing images",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"Top-1 on the validation images of the digits, {options.epochs} epochs, medians of {options.seeds} seeds. "
            f"The teacher of width 1 has {teacher:.1f} % after {2 * options.epochs} epochs.",
            "Mixing: medians of updates with and without it, in turn, on random images and without loading.",
            f"Device: {device()}; {options.jobs} runs at the same time, mixing alone.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for line in rows:
        print(json.dumps(line))
    return 0


def students(folder: Path, options: argparse.Namespace) -> tuple[float, list[Row]]:
    """Return the teacher's top-1, and a row per width."""
    epochs = options.epochs
    schedule: dict[str, object] = {
        "model.batch_norm_decay": "auto",
        "schedule.warmup_epochs": 0 if options.quick else 1,
    }
    schedule |= {"model.network": QUICK.source} if options.quick else {}
    write_digits(folder / "data")
    wide = {**schedule, "schedule.epochs": 2 * epochs, "model.width": 1.0, "train.evaluate_every": 2 * epochs}
    (teacher,) = train_all([Job("digits", folder / "data", folder / "teacher", wide)], options)
    kinds = [(width, kind, seed) for width in options.widths for kind in KINDS for seed in range(options.seeds)]
    runs = []
    for width, kind, seed in kinds:
        small = {**schedule, "schedule.epochs": epochs, "model.width": width, "train.evaluate_every": epochs}
        small |= {"train.seed": seed, "distill.weight": 0.7, "distill.temperature": 3.0}
        source = folder / "teacher" if kind == "distilled" else None
        runs.append(Job("digits", folder / "data", folder / f"{kind}-{width}-{seed}", small, teacher=source))
    found: dict[tuple[float, str], list[Done]] = defaultdict(list)
    for (width, kind, _), done in zip(kinds, train_all(runs, options), strict=True):
        found[width, kind].append(done)
    return teacher.top1, [row(width, *(found[width, kind] for kind in KINDS)) for width in options.widths]


def row(width: float, distilled: list[Done], alone: list[Done]) -> Row:
    """Return the row of one width of the student."""
    found: Row = {"student_width": width}
    median = {}
    for kind, runs in zip(KINDS, (distilled, alone), strict=True):
        values = [run.top1 for run in runs]
        median[kind] = statistics.median(values)
        found |= {f"{kind}_top1": median[kind], f"{kind}_lowest": min(values), f"{kind}_highest": max(values)}
        found[f"{kind}_values"] = values
        found[f"{kind}_seconds"] = statistics.median(run.seconds for run in runs)
    return found | {"points_gained": median[KINDS[0]] - median[KINDS[1]]}


def mixing_rows(folder: Path, quick: bool) -> list[Row]:
    """Return the cost of mixup and cutmix for an update of the digits and of ShrinkCNN-B."""
    gpu = torch.cuda.is_available()
    large = (
        ["model.input_size=224", "train.batch_size=128"]
        if gpu
        else ["model.input_size=64", "train.batch_size=16", "train.precision=float32"]
    )
    shapes = {"digits": [], "shrinkcnn-b": large, **({} if gpu else {"smoke": []})}
    rows: list[Row] = []
    with torch_settings(deterministic=False), join() as ranks:
        for recipe in ["smoke"] if quick else ["digits", "shrinkcnn-b"]:
            arguments = (recipe, shapes[recipe], 2 if quick else 60 if gpu or recipe == "digits" else 40)
            figures = kept(folder / f"mixing-{recipe}", arguments)
            if figures is None:
                figures = update_times(*arguments, ranks)
                keep(folder / f"mixing-{recipe}", arguments, figures)
            rows += [{"recipe": recipe, "mixing": name, **times} for name, times in figures.items()]
    return rows


def update_times(name: str, settings: list[str], rounds: int, ranks: DistContext) -> Figures:
    """Return for each kind of mixing the median time of an update, and how many percent longer it is than without."""
    states: dict[str, TrainState] = {}
    for kind, mixing in MIXING.items():
        recipe = load_recipe(name, [*settings, *mixing])
        states[kind] = TrainState(arch.from_recipe(recipe.model, CLASSES), recipe, ranks)
    batch, times = random_batch(recipe), defaultdict(list)
    for step in range(1, rounds + 6):
        for kind, state in states.items():
            wait(ranks)
            began = time.perf_counter()
            state.update([batch], step, 1e-3)
            wait(ranks)
            if step > 5:
                times[kind].append(time.perf_counter() - began)
    # The ratio of neighbours does not depend on a clock that changes during the measurement.
    ratio = {
        kind: statistics.median(own / plain for own, plain in zip(taken, times["none"], strict=True))
        for kind, taken in times.items()
    }
    return {
        kind: {"update_ms": 1000 * statistics.median(taken), "percent_more": 100 * (ratio[kind] - 1)}
        for kind, taken in times.items()
    }


def random_batch(recipe: Recipe) -> TrainBatch:
    rng, count, size = np.random.default_rng(0), recipe.train.batch_size, recipe.model.input_size
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return TrainBatch(images, rng.integers(0, CLASSES, count), np.arange(count))


def wait(ranks: DistContext) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
