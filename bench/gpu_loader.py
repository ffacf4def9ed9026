"""Loaders beside a GPU: images/s alone, and of a training run with them."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from loader import Repeated, make_photos

from shrinkserve.config import load_recipe
from shrinkserve.data import open_dataset, train_loader
from shrinkserve.machine import usable_cores

PHOTOS, COPIES, BATCH = 240, 50, 128
WARM_UP, BATCHES = 20, 100
TIMEOUT = 180
"""Seconds for a training run of one epoch: 12,000 images, 93 updates."""


def measure_loaders(*, smoke: bool, photos: Path | None = None) -> dict[str, Any]:
    """Measure each loader that is installed.

    Args:
        smoke: a few small batches.
        photos: folder with ``folder/train/CLASS/*.jpg``; None to make it of scikit-image's photographs.
    """
    loaders = ["portable", *(["dali"] if find_spec("nvidia") and find_spec("nvidia.dali") else [])]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if photos is None:
            make_photos(root, 16 if smoke else PHOTOS)
            photos = root / "folder"
        copies = copied(photos, root / "copies", 1 if smoke else COPIES)
        rows = [measure(loader, copies, root / loader, smoke=smoke) for loader in loaders]
    return {"rows": rows, "failures": [failure for row in rows for failure in row.pop("failures")]}


def copied(photos: Path, out: Path, copies: int) -> Path:
    """Make a folder in which each photograph has several names, so that an epoch is long enough."""
    for file in photos.rglob("*.jpg"):
        for split, number in (("train", copies), ("val", 1)):
            folder = out / split / file.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(number):
                shutil.copyfile(file, folder / f"{copy}-{file.name}")
    return out


def measure(loader: str, data: Path, out: Path, *, smoke: bool) -> dict[str, Any]:
    """Return images/s of a loader alone, and in training, where the larger of loader and update is the limit."""
    warm_up, count, size = (1, 1, 32) if smoke else (WARM_UP, BATCHES, 224)
    batch = 8 if smoke else BATCH
    words = [f"data.loader={loader}", f"train.batch_size={batch}", f"model.input_size={size}"]
    dataset = Repeated(open_dataset(data, "train"), 100)
    batches = train_loader(dataset, load_recipe("shrinkcnn-a", words), colour_on_device=True).epoch(0)
    for _ in islice(batches, warm_up):
        pass
    began = time.perf_counter()
    for batch_of_images in islice(batches, count):
        if hasattr(batch_of_images.images, "cpu"):
            batch_of_images.images[0, 0, 0, 0].item()  # waits for the GPU
    rate = count * batch / (time.perf_counter() - began)
    batches.close()  # type: ignore[attr-defined]
    row: dict[str, Any] = {"loader": loader, "cores": usable_cores(), "images_per_second": round(rate), "failures": []}
    return row if smoke else row | train(loader, data, out, words, row["failures"])


def train(loader: str, data: Path, out: Path, words: list[str], failures: list[str]) -> dict[str, Any]:
    """Run the command on one epoch; return the images/s that it logs, without the first half of the updates."""
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        failures.append(f"training with the loader {loader}: {done.stderr[-500:]}")
        return {}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [line["images_per_second"] for line in lines if line["kind"] == "train"]
    return {"training_images_per_second": round(statistics.median(rates[len(rates) // 2 :]))}
