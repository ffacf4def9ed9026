"""Compare data loaders: 500x375 JPEG in TFRecords to augmented 224x224 batches, in images per second and core.

    python bench/loader.py --out bench/results/loader.json [--quick]

Every loader reads the same records with the same TFRecord reader and has the same number of worker processes (DALI:
threads). The program is pinned to that number of cores. Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import Recipe, parse_recipe
from shrinkserve.data import Dataset, Record, open_dataset
from shrinkserve.data.loading.dali import DaliLoader
from shrinkserve.data.loading.portable import PortableLoader
from shrinkserve.data.packing import pack as packing
from shrinkserve.data.packing.pack_shards import write_shards
from shrinkserve.data.packing.sources import find_sources

SIZE, BATCH = 224, 32
WIDTH, HEIGHT, QUALITY = 500, 375, 96  # a typical ImageNet picture: about 110 kB
IMAGES, SIDE = 240, 256
REFERENCE = "Pillow, torchvision's transforms, our augmentation"
LESS = "crop and flip only"
PRESET = f"Pillow, torchvision's reference preset ({LESS})"
DECLARED: list[Any] = []
Loader = Callable[[int], Iterator[Any]]


def make_photos(root: Path, count: int = IMAGES) -> Path:
    """Write TFRecord shards of crops of the photographs in scikit-learn and scikit-image."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photos = [*load_sample_images().images, data.astronaut(), data.coffee(), data.rocket(), data.chelsea()]
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = Image.fromarray(photos[number % len(photos)])
        scale = min(photo.width / WIDTH, photo.height / HEIGHT) * rng.uniform(0.8, 1)
        left = rng.uniform(0, photo.width - WIDTH * scale)
        top = rng.uniform(0, photo.height - HEIGHT * scale)
        box = (left, top, left + WIDTH * scale, top + HEIGHT * scale)
        path = root / "folder" / "train" / f"class{number % 10}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box).save(path, quality=QUALITY)
    collection = find_sources(root / "folder")
    shards = packing.plan_shards(collection, root / "shards", {"train": 4, "validation": None})
    write_shards(collection, shards, root / "shards", workers=2)
    return root / "shards"


class Repeated:
    """Dataset that repeats its images, so that an epoch is long enough to measure."""

    def __init__(self, dataset: Dataset, times: int) -> None:
        self.root, self.split, self.classes = dataset.root, dataset.split, dataset.classes
        self._dataset, self._times = dataset, times

    def __len__(self) -> int:
        return len(self._dataset) * self._times

    def record(self, index: int) -> Record:
        return self._dataset.record(index % len(self._dataset))


class Transformed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Dataset of the peers: an image file, Pillow and a transform, one image at a time."""

    def __init__(self, dataset: Dataset, transform: Any = None) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        record = self.dataset.record(index)
        with Image.open(io.BytesIO(record.encoded)) as image:
            return self.transform(image.convert("RGB")), record.label


def recipe(workers: int, **sections: Any) -> Recipe:
    raw = {"name": "bench", "model": {"input_size": SIZE}, "train": {"batch_size": BATCH}, "data": {"workers": workers}}
    return parse_recipe({**raw, **sections})


AS_PRESET: dict[str, Any] = {
    "input": {"interpolation": "bilinear"},
    "augment": {
        "crop_area": [0.08, 1.0],
        "crop_aspect": [3 / 4, 4 / 3],
        "random_interpolation": False,
        "brightness": 0.0,
        "saturation": [1.0, 1.0],
        "contrast": [1.0, 1.0],
        "hue": 0.0,
        "erase_probability": 0.0,
    },
}
"""Recipe sections with the augmentation of torchvision's reference preset."""


@functools.cache
def import_torchvision_transforms() -> Any:
    """Return the transforms of torchvision, which are Python code on Pillow and torch and run with any torch.

    If torchvision was built for another torch, its compiled operators for detection do not load, and the import of
    the package fails. So their names are declared here; none of them is called.
    """
    with contextlib.suppress(ImportError, RuntimeError):
        from torchvision import transforms

        return transforms
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    place = find_spec("torchvision")
    source = Path(str(place and place.origin)).with_name("_meta_registrations.py").read_text(encoding="utf-8")
    # Must not be garbage-collected, or the declarations are lost.
    DECLARED.append(library := torch.library.Library("torchvision", "FRAGMENT"))
    for name in set(re.findall(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)', source)):
        with contextlib.suppress(RuntimeError):  # the operators are loaded
            library.define(f"{name}() -> ()")
    from torchvision import transforms

    return transforms


def torchvision_loader(dataset: Dataset, *, ours: bool) -> Loader:
    """Return the loader of torchvision's reference recipe; with `ours`, with the augmentation of our recipe."""
    t = import_torchvision_transforms()
    steps: list[Any] = [t.RandomResizedCrop(SIZE, *(((0.75, 1.0), (0.75, 1.33)) if ours else ()))]
    steps += [t.RandomHorizontalFlip()]
    if ours:
        steps += [t.ColorJitter(0.4, 0.4, 0.4, 0.1)]
    steps += [t.PILToTensor()]
    if ours:
        steps += [t.RandomErasing(0.5, (0.02, 0.4), value=0)]
    return lambda workers: iter(
        torch.utils.data.DataLoader(
            Transformed(dataset, t.Compose(steps)), BATCH, shuffle=True, num_workers=workers, drop_last=True
        )
    )


def timm_loader(dataset: Dataset) -> Loader:
    import_torchvision_transforms()
    from timm.data import create_loader

    return lambda workers: iter(
        create_loader(
            Transformed(dataset),
            (3, SIZE, SIZE),
            BATCH,
            is_training=True,
            scale=(0.75, 1.0),
            ratio=(0.75, 1.33),
            hflip=0.5,
            color_jitter=(0.4, 0.4, 0.4, 0.1),
            interpolation="random",
            re_prob=0.5,
            re_mode="pixel",
            num_workers=workers,
            device=torch.device("cpu"),
            pin_memory=False,
            persistent_workers=False,
        )
    )


def decode_alone(dataset: Dataset, decode: Callable[[bytes], Any]) -> Loader:
    """Decode batches only."""

    def run(_: int) -> Iterator[Any]:
        for start in range(0, len(dataset), BATCH):
            for index in range(start, start + BATCH):
                decode(dataset.record(index % len(dataset)).encoded)
            yield None

    return run


def measure(loader: Loader, cores: int, count: int) -> tuple[float, float]:
    """Return images per second, and images per second of CPU time of all processes, on `cores` cores.

    The second figure is meaningful even if other programs use the machine.
    """
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(everything)[:cores]))
    try:
        batches = loader(cores)
        for _ in range(3 * cores):  # workers start, and prefetched batches are used up
            next(batches)
        begin, used = time.perf_counter(), processor_seconds()
        for _ in range(count):
            next(batches)
        wall, used = time.perf_counter() - begin, processor_seconds() - used
        del batches
        return count * BATCH / wall, count * BATCH / used
    finally:
        os.sched_setaffinity(0, everything)


def processor_seconds() -> float:
    """Return the CPU time of this process and its children in seconds."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def candidates(dataset: Dataset, smaller: Dataset) -> dict[str, Loader]:
    """Return the loaders of a dataset, and ours of the same images with a shorter side of at most SIDE."""
    import simplejpeg

    def shrunk(workers: int) -> Iterator[Any]:
        return PortableLoader(smaller, recipe(workers), rank=0, world=1, workers=workers).epoch(0)

    def portable(workers: int) -> Iterator[Any]:
        return PortableLoader(dataset, recipe(workers), rank=0, world=1, workers=workers).epoch(0)

    def uncoloured(workers: int) -> Iterator[Any]:
        found = recipe(workers)
        return PortableLoader(dataset, found, rank=0, world=1, workers=workers, colour_on_device=True).epoch(0)

    def less(workers: int) -> Iterator[Any]:
        return PortableLoader(dataset, recipe(workers, **AS_PRESET), rank=0, world=1, workers=workers).epoch(0)

    def dali(workers: int) -> Iterator[Any]:
        return DaliLoader(dataset, recipe(workers), rank=0, world=1, workers=workers, device=None).epoch(0)

    return {
        "shrinkserve, portable": portable,
        "shrinkserve, portable, colours left to the GPU": uncoloured,
        f"shrinkserve, portable, after data pack --max-side {SIDE}": shrunk,
        "shrinkserve, DALI on the CPU": dali,
        REFERENCE: torchvision_loader(dataset, ours=True),
        f"shrinkserve, portable ({LESS})": less,
        PRESET: torchvision_loader(dataset, ours=False),
        "timm's loader, our augmentation": timm_loader(dataset),
        "limit: libjpeg-turbo decodes and nothing else": decode_alone(dataset, simplejpeg.decode_jpeg),
        "limit: Pillow decodes and nothing else": decode_alone(
            dataset, lambda raw: Image.open(io.BytesIO(raw)).convert("RGB")
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/loader.json"))
    parser.add_argument("--quick", action="store_true", help="one short round on one core, to see that it runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure the loaders with this text in their name")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = plain(environment("torchvision", "timm", "simplejpeg", "nvidia-dali-cuda120", "nvidia-dali-cuda130"))
    rounds, count, photos = (1, 2, 64) if options.quick else (options.rounds, 10, IMAGES)
    cores = [n for n in ((1,) if options.quick else (1, 2)) if n <= len(os.sched_getaffinity(0))]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = open_dataset(make_photos(root, photos), "train")
        packing.pack_dataset(root / "folder", root / "smaller", train_shards=4, max_side=SIDE, workers=2)
        smaller = Repeated(open_dataset(root / "smaller", "train"), 1000)
        kilobytes = statistics.mean(len(base.record(i).encoded) for i in range(len(base))) / 1000
        loaders = candidates(Repeated(base, 1000), smaller)
        kept = [name for name in loaders if options.only in name]
        kept += [reference_of(name) for name in kept]
        loaders = {name: loader for name, loader in loaders.items() if name in kept}
        rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for number in range(rounds):
            for workers in cores:
                for name, loader in loaders.items():
                    if workers == 1 or not name.startswith("limit"):
                        rates.setdefault((name, workers), []).append(measure(loader, workers, count))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    rows = [row(name, workers, rates) for name, workers in rates]
    record = {
        "title": "Data loaders: JPEG in TFRecords to augmented 224x224 batches",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"{WIDTH}x{HEIGHT} JPEG, {kilobytes:.0f} kB on average; batches of {BATCH} (timm's are normalised floats).",
            f"{rounds} interleaved rounds of {count} batches, medians; workers = cores, the program pinned to them.",
            "images_per_processor_second is per CPU second of all processes, so other programs matter less.",
            f"times_reference compares images_per_second with Pillow and torchvision's transforms at the same work: "
            f"{REFERENCE!r}, or for {LESS} {PRESET!r}.",
            "The upper bound for a loader on a CPU is the rate of libjpeg-turbo alone.",
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    for line in rows:
        speed = (
            f"{line['images_per_second']:6.0f} images/s {line['images_per_processor_second']:6.0f} a processor second"
        )
        print(f"{speed} {line['times_reference']:5.2f}x  {line['cores']} core(s)  {line['loader']}")


def reference_of(name: str) -> str:
    """Return the name of the loader that does the same work by Pillow and torchvision."""
    return PRESET if LESS in name else REFERENCE


def row(name: str, workers: int, rates: dict[tuple[str, int], list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the row of a loader."""
    wall, processor = zip(*rates[name, workers], strict=True)
    reference = statistics.median(rate for rate, _ in rates[reference_of(name), workers])
    return {
        "loader": name,
        "cores": workers,
        "images_per_second": round(statistics.median(wall), 1),
        "lowest": round(min(wall), 1),
        "highest": round(max(wall), 1),
        "times_reference": round(statistics.median(wall) / reference, 2),
        "images_per_processor_second": round(statistics.median(processor), 1),
    }


if __name__ == "__main__":
    main()
