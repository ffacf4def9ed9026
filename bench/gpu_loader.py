"""Loaders on a machine with a GPU: images/s alone, and of a training run with them."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from loader import Repeated, make_photos

from shrinkserve.config import load_recipe
from shrinkserve.data import open_dataset, train_loader
from shrinkserve.data.loaders import dali_installed
from shrinkserve.machine import usable_cores

PHOTOS, COPIES, BATCH = 240, 50, 128
WARM_UP, BATCHES = 20, 100
TIMEOUT = 100
"""Seconds for a training run of one epoch: 12,000 images, 93 updates."""


def measure_loaders(*, smoke: bool, keep: Callable[[dict[str, Any]], None], photos: Path | None = None) -> None:
    """Measure each loader that is installed, first alone and then in training.

    Args:
        smoke: a few small batches.
        keep: called with what was measured so far.
        photos: folder with ``folder/train/CLASS/*.jpg``; None to make it of scikit-image's photographs.
    """
    loaders = ["portable", *(["dali"] if dali_installed() else [])]
    failures: list[str] = [] if smoke or dali_installed() else ["nvidia-dali is not installed"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if photos is None:
            make_photos(root, 16 if smoke else PHOTOS)
            photos = root / "folder"
        copies = copied(photos, root / "copies", 1 if smoke else COPIES)
        for loader in loaders:
            try:
                rows.append(measure(loader, copies, smoke=smoke))
            except Exception:  # noqa: BLE001 - the other loader is still measured
                failures.append(f"{loader}: {traceback.format_exc()[-2000:]}")
            keep({"rows": rows, "failures": failures})
        for row in [] if smoke else rows:
            loader = row["loader"]
            row.update(train(loader, copies, root / loader, settings(loader, smoke=False), failures))
            keep({"rows": rows, "failures": failures})


def copied(photos: Path, out: Path, copies: int) -> Path:
    """Make a folder in which each photograph has several names, so that an epoch is long enough."""
    for file in photos.rglob("*.jpg"):
        for split, number in (("train", copies), ("val", 1)):
            folder = out / split / file.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(number):
                shutil.copyfile(file, folder / f"{copy}-{file.name}")
    return out


def settings(loader: str, *, smoke: bool) -> list[str]:
    """Return the settings of the recipe."""
    batch, size = (8, 32) if smoke else (BATCH, 224)
    return [f"data.loader={loader}", f"train.batch_size={batch}", f"model.input_size={size}"]


def measure(loader: str, data: Path, *, smoke: bool) -> dict[str, Any]:
    """Return images/s of a loader alone."""
    warm_up, count = (1, 1) if smoke else (WARM_UP, BATCHES)
    recipe = load_recipe("shrinkcnn-a", settings(loader, smoke=smoke))
    dataset, batch = Repeated(open_dataset(data, "train"), 100), recipe.train.batch_size
    batches = train_loader(dataset, recipe, colour_on_device=True).epoch(0)
    for _ in islice(batches, warm_up):
        pass
    began = time.perf_counter()
    for batch_of_images in islice(batches, count):
        if hasattr(batch_of_images.images, "cpu"):
            batch_of_images.images[0, 0, 0, 0].item()  # waits for the GPU
    rate = count * batch / (time.perf_counter() - began)
    batches.close()  # type: ignore[attr-defined]
    return {"loader": loader, "cores": usable_cores(), "images_per_second": round(rate)}


def train(loader: str, data: Path, out: Path, words: list[str], failures: list[str]) -> dict[str, Any]:
    """Run the command on one epoch; return the images/s that it logs, without the first half of the updates.

    The larger of loader and update is the limit.
    """
    words = [*words, "schedule.epochs=1", "schedule.warmup_epochs=0"]
    command = [
        sys.executable,
        "-m",
        "shrinkserve",
        "train",
        "run",
        "shrinkcnn-a",
        "--data",
        str(data),
        "--out",
        str(out),
    ]
    command += [part for word in words for part in ("--set", word)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        failures.append(f"training with the loader {loader}: no end after {TIMEOUT} s")
        return {}
    if done.returncode:
        failures.append(f"training with the loader {loader}: {done.stderr[-500:]}")
        return {}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [line["images_per_second"] for line in lines if line["kind"] == "train"]
    return {"training_images_per_second": round(statistics.median(rates[len(rates) // 2 :]))}
