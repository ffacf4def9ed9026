"""Measure distillation and the cost of mixing images, on the digits.

    python bench/distillation.py --out bench/results/distillation.json [--quick]

A teacher of width 1 is trained on the digits. Then students of width 0.25 are trained with and without it, with the
same recipe, order of images and number of updates. Each figure has three seeds. The cost of mixup and cutmix is the
time that they take alone, as a part of the time of an update.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import shrinkserve as ss
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import AugmentConfig
from shrinkserve.data.digits import write_digits
from shrinkserve.training.mixing import mix


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--epochs", type=int, default=6, help="of a student; the teacher has twice as many")
    options = parser.parse_args()
    about = plain(environment())
    seeds, epochs = (1, 1) if options.quick else (3, options.epochs)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as name:
        folder = Path(name)
        write_digits(folder / "data")
        schedule = {"schedule.warmup_epochs": 0 if options.quick else 1, "model.batch_norm_decay": "auto"}
        wide = {**schedule, "schedule.epochs": 2 * epochs, "model.width": 1.0, "train.evaluate_every": 2 * epochs}
        teacher = ss.train("digits", folder / "data", folder / "teacher", overrides=wide)
        found: dict[str, list[float]] = {"distilled": [], "plain": []}
        small = {**schedule, "schedule.epochs": epochs, "model.width": 0.25, "train.evaluate_every": epochs}
        for seed in range(seeds):
            for kind, source in (("distilled", teacher.folder), ("plain", None)):
                overrides = {**small, "train.seed": seed, "distill.weight": 0.7, "distill.temperature": 3.0}
                out = folder / f"{kind}-{seed}"
                found[kind].append(
                    100 * ss.train("digits", folder / "data", out, overrides=overrides, teacher=source).top1
                )
        update = ss.profile_training(ss.load_recipe("digits"), folder / "data").update
    rows: list[dict[str, object]] = [
        {"student": kind, "top1": statistics.median(values), "range": [min(values), max(values)]}
        for kind, values in found.items()
    ]
    rows += [cost(name, update) for name in ("mixup", "cutmix")]
    result = {
        "title": "Distillation, and the cost of mixing images",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"Top-1 on the validation images of the digits; students of width 0.25, {epochs} epochs, {seeds} seeds. "
            f"The teacher of width 1 has {teacher.top1:.1%} after {2 * epochs} epochs.",
            "Cost of mixing: median time of a batch of 32 images at 32x32, in percent of an update of recipe `digits`.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for row in rows:
        print(json.dumps(row))
    return 0


def cost(name: str, update: float) -> dict[str, object]:
    """Return the row of mixup or cutmix."""
    images, labels, config = torch.rand(32, 3, 32, 32), torch.arange(32), AugmentConfig(**{name: 1.0})
    times = []
    for _ in range(200):
        began = time.perf_counter()
        mix(images, labels, config)
        times.append(time.perf_counter() - began)
    return {"mixing": name, "percent_of_update": 100 * statistics.median(times) / update}


if __name__ == "__main__":
    sys.exit(main())
