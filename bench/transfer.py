"""Measure how much fine-tuning helps on few images: digits 5 to 9 from a network trained on 0 to 4.

    python bench/transfer.py --out bench/results/transfer.json [--quick] [--images 5 20 100] [--jobs 2]

A network is trained on the digits 0 to 4. Then the digits 5 to 9 are learned from 5, 20 and 100 images of each class,
starting with the weights of that network or with random weights. Both use the same recipe, images, order and number of
updates. The seeds also choose the images. A GPU is used where there is one; hide it with CUDA_VISIBLE_DEVICES="".
With --folder and --minutes the comparison can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from jobs import Done, Job, add_options, device, train_all, work_folder
from network import QUICK

import shrinkserve as ss
from shrinkserve.atomic import staged_folder, write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.data import Dataset
from shrinkserve.data.digits import write_digits

OLD, NEW = "01234", "56789"
BATCH = 16
STARTS = ("fine_tuned", "from_scratch")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one seed, one size, few updates")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 100], help="images of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, nargs="+", default=[40, 150], help="of a run; whole epochs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    add_options(parser)
    options = parser.parse_args()
    if options.quick:
        options.images, options.seeds, options.updates = [4], 1, [3]
    about = plain(environment())
    with work_folder(options.folder) as folder:
        write_digits(folder / "digits")
        write_folder(folder / "old", folder / "digits", OLD, None, 0)
        network = {"model.network": QUICK.source} if options.quick else {}
        short = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, **network} if options.quick else {}
        (parent,) = train_all([Job("digits", folder / "old", folder / "parent", short)], options)
        cases = [(updates, size) for updates in options.updates for size in options.images]
        kinds = [(*case, start, seed) for case in cases for start in STARTS for seed in range(options.seeds)]
        runs = [job(folder, *kind, network) for kind in kinds]
        results = train_all(runs, options)
    found: dict[tuple[int, int, str], list[Done]] = defaultdict(list)
    for (updates, size, start, _), done in zip(kinds, results, strict=True):
        found[updates, size, start].append(done)
    rows = [row(steps, size, *(found[steps, size, start] for start in STARTS)) for steps, size in cases]
    result = {
        "title": "Fine-tuning on few images against training from random weights",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"Top-1 on all validation images of the digits 5 to 9; the network on 0 to 4 has {parent.top1:.1f} %.",
            f"Updates of {BATCH} images, recipe `digits`, in whole epochs; medians of {options.seeds} seeds. "
            f"The result file has the range. Device: {device()}; {options.jobs} at the same time.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for line in rows:
        print(json.dumps(line))
    return 0


def job(folder: Path, updates: int, size: int, start: str, seed: int, network: dict[str, str]) -> Job:
    """Return the run of one start on `size` images of each class; write its images."""
    data = folder / f"new-{size}-{seed}"
    write_folder(data, folder / "digits", NEW, size, seed)
    epochs = -(-updates // epoch(size))
    overrides: dict[str, object] = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs // 10,
        "train.batch_size": BATCH,
        "train.evaluate_every": epochs,
        "train.seed": seed,
        "train.ema_decay": "auto",
        "model.batch_norm_decay": "auto",
        **network,
    }
    init = folder / "parent" if start == "fine_tuned" else None
    return Job("digits", data, folder / f"{start}-{updates}-{size}-{seed}", overrides, init)


def row(updates: int, size: int, tuned: list[Done], scratch: list[Done]) -> dict[str, object]:
    """Return the row of one number of updates and of images."""
    found: dict[str, object] = {"updates": -(-updates // epoch(size)) * epoch(size), "images_of_a_class": size}
    median = {}
    for name, runs in zip(STARTS, (tuned, scratch), strict=True):
        values = [run.top1 for run in runs]
        median[name] = statistics.median(values)
        found |= {f"{name}_top1": median[name], f"{name}_lowest": min(values), f"{name}_highest": max(values)}
        found[f"{name}_values"] = values
    seconds = statistics.median(run.seconds for run in (*tuned, *scratch))
    return found | {"points_gained": median[STARTS[0]] - median[STARTS[1]], "seconds_of_a_run": seconds}


def epoch(size: int) -> int:
    """Return the updates of an epoch on `size` images of each class."""
    return max(1, size * len(NEW) // BATCH)


def write_folder(target: Path, digits: Path, names: str, size: int | None, seed: int) -> None:
    """Write the digits `names` as an image folder, with `size` training images of each class; None for all."""
    if not target.exists():
        with staged_folder(target) as folder:
            write_images(folder, digits, names, size, seed)


def write_images(target: Path, digits: Path, names: str, size: int | None, seed: int) -> None:
    for split, part in (("train", "train"), ("validation", "val")):
        dataset = ss.open_dataset(digits, split)
        written: dict[str, int] = defaultdict(int)
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
