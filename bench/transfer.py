"""Measure how much fine-tuning helps on few images: digits 5 to 9 from a network trained on 0 to 4.

    python bench/transfer.py --out bench/results/transfer.json [--quick] [--images 5 20 100]

A network is trained on the digits 0 to 4. Then the digits 5 to 9 are learned from 5, 20 and 100 images of each class,
starting with the weights of that network or with random weights. Both use the same recipe, images, order and number of
updates. Each figure has three seeds, which also choose the images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import shrinkserve as ss
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.data import Dataset
from shrinkserve.data.digits import write_digits

OLD, NEW = "01234", "56789"
BATCH = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, one size, few updates")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 100], help="images of each class")
    options = parser.parse_args()
    about = plain(environment())
    sizes, seeds, updates, epochs = ([4], 1, 3, 1) if options.quick else (options.images, 3, 150, 12)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as name:
        folder = Path(name)
        write_digits(folder / "digits")
        write_folder(folder / "old", folder / "digits", OLD, None, 0)
        overrides = {"schedule.epochs": epochs, "schedule.warmup_epochs": 0} if options.quick else {}
        parent = ss.train("digits", folder / "old", folder / "parent", overrides=overrides)
        rows = [compared(folder, size, seeds, updates) for size in sizes]
    result = {
        "title": "Fine-tuning on few images against training from random weights",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"Top-1 on all validation images of the digits 5 to 9; the network on 0 to 4 has {parent.top1:.1%}.",
            f"About {updates} updates of {BATCH} images, recipe `digits`; medians of {seeds} seeds, and their range.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for row in rows:
        print(json.dumps(row))
    return 0


def compared(folder: Path, size: int, seeds: int, updates: int) -> dict[str, object]:
    """Return the row of one number of images: top-1 of both starts over the seeds."""
    found: dict[str, list[float]] = {"fine_tuned": [], "from_scratch": []}
    for seed in range(seeds):
        data = folder / f"new-{size}-{seed}"
        write_folder(data, folder / "digits", NEW, size, seed)
        epochs = -(-updates // max(1, size * len(NEW) // BATCH))
        overrides = {
            "schedule.epochs": epochs,
            "schedule.warmup_epochs": epochs // 10,
            "train.batch_size": BATCH,
            "train.evaluate_every": epochs,
            "train.seed": seed,
            "train.ema_decay": "auto",
            "model.batch_norm_decay": "auto",
        }
        for name, init in (("fine_tuned", folder / "parent"), ("from_scratch", None)):
            run = ss.train("digits", data, folder / f"{name}-{size}-{seed}", overrides=overrides, init=init)
            found[name].append(100 * run.top1)
    row: dict[str, object] = {"images_of_a_class": size}
    for name, values in found.items():
        row |= {f"{name}_top1": statistics.median(values), f"{name}_range": [min(values), max(values)]}
    row["points_gained"] = statistics.median(found["fine_tuned"]) - statistics.median(found["from_scratch"])
    return row


def write_folder(target: Path, digits: Path, names: str, size: int | None, seed: int) -> None:
    """Write the digits `names` as an image folder, with `size` training images of each class; None for all."""
    for split, part in (("train", "train"), ("validation", "val")):
        dataset = ss.open_dataset(digits, split)
        written: Counter[str] = Counter()
        for index in order(dataset, seed):
            record = dataset.record(index)
            name = dataset.classes[record.label]
            if name in names and (split == "validation" or size is None or written[name] < size):
                written[name] += 1
                path = target / part / name / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(record.encoded)


def order(dataset: Dataset, seed: int) -> list[int]:
    """Return the positions of all images in a random order."""
    return [int(index) for index in np.random.default_rng(seed).permutation(len(dataset))]


if __name__ == "__main__":
    sys.exit(main())
