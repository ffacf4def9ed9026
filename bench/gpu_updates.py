"""Updates of the trainer on a GPU: images/s, time on the host and on the device, kernels, and waits."""

from __future__ import annotations

import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from loader import import_torchvision_transforms
from training_peers import Timm

from shrinkserve import arch
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.data import TrainBatch
from shrinkserve.training.processes.distributed import DistContext, join
from shrinkserve.training.processes.torch_settings import torch_settings
from shrinkserve.training.update.prefetch import on_device
from shrinkserve.training.update.train_state import TrainState

CLASSES, STEPS, ROUNDS = 1001, 30, 3
TIMM = "--amp --amp-dtype bfloat16 --channels-last"
Row = dict[str, Any]

EAGER = "train.cuda_graph=false"
VARIANTS: dict[str, list[str]] = {
    "bfloat16, eager": ["train.precision=bfloat16", EAGER],
    "bfloat16 (default)": ["train.precision=bfloat16"],
    "float32": ["train.precision=float32"],
    "float16": ["train.precision=float16"],
    "bfloat16, compile": ["train.precision=bfloat16", "train.compile=true"],
}
"""Settings by name. Forward and backward pass are a captured CUDA graph unless the name says otherwise."""
COMPILED = {"bfloat16, compile"}
NO_KERNELS = ("Optimizer.", "Memcpy", "Memset")
"""First words of the profiler's events on a GPU that are no kernels."""


def measure_updates(batch: int, *, smoke: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measure each variant of our update, and timm's with ``--amp --channels-last``; call `keep` after each."""
    sizes = ["model.input_size=32", "model.width=0.25"] if smoke else []
    batch, steps = (4, 2) if smoke else (batch, STEPS)
    rows: list[Row] = []
    failures: list[str] = []
    with torch_settings(deterministic=False), join() as ranks:
        data = random_batch(batch, 32 if smoke else 224)
        for name, settings in VARIANTS.items():
            if smoke and name in COMPILED:
                continue
            recipe = load_recipe("shrinkcnn-a", [*sizes, f"train.batch_size={batch}", *settings])
            try:
                rows.append({"who": "ours", "variant": name, **measure_ours(recipe, data, ranks, steps)})
            except Exception:  # noqa: BLE001 - the other variants still run
                failures.append(f"{name}: {traceback.format_exc()[-1500:]}")
            keep({"rows": rows, "failures": failures})
        try:
            import_torchvision_transforms()  # timm's package imports them
            recipe = load_recipe("shrinkcnn-a", [*sizes, f"train.batch_size={batch}"])
            timm = Timm(recipe, CLASSES, ranks.device, amp=True)
            # Its loader copies the next batch during an update, so here the batch is on the GPU before.
            resident = next(iter(on_device(endless(data), ranks.device)))
            rows.append(
                {"who": "timm", "variant": "eager: " + TIMM, **clock(lambda: timm(resident), ranks, batch, steps)}
            )
        except Exception:  # noqa: BLE001 - timm may be missing
            failures.append(f"timm: {traceback.format_exc()[-1500:]}")
        keep({"rows": rows, "failures": failures})


def random_batch(batch: int, size: int) -> TrainBatch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return TrainBatch(images, rng.integers(0, CLASSES, batch), np.arange(batch))


def measure_ours(recipe: Recipe, data: TrainBatch, ranks: DistContext, steps: int) -> Row:
    state, numbers = TrainState(arch.from_recipe(recipe.model, CLASSES), recipe, ranks), count(1)
    batches = on_device(endless(data), ranks.device)

    def update() -> None:
        state.update([next(batches)], next(numbers), 1e-3)

    row = clock(update, ranks, len(data), steps)
    if ranks.device.type == "cuda":
        row |= {"waits": waits(update)} | kernels(update)
    return row


def endless(data: TrainBatch) -> Iterator[TrainBatch]:
    while True:
        yield data


def clock(update: Callable[[], object], ranks: DistContext, images: int, steps: int) -> Row:
    """Measure `steps` updates between two waits: images/s, and milliseconds on the host and on the device."""
    cuda = ranks.device.type == "cuda"
    for _ in range(max(3, steps // 4)):
        update()
    issue, total, device = [], [], []
    for _ in range(ROUNDS):
        if cuda:
            torch.cuda.synchronize()
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
        began = time.perf_counter()
        for _ in range(steps):
            update()
        issue.append((time.perf_counter() - began) / steps)
        if cuda:
            last.record()
            torch.cuda.synchronize()
            device.append(first.elapsed_time(last) / 1e3 / steps)
        total.append((time.perf_counter() - began) / steps)
    middle = statistics.median
    return {
        "batch": images,
        "images_per_second": images / middle(total),
        "host_ms": 1e3 * middle(issue),
        "span_ms": 1e3 * middle(device or total),
    }


def kernels(update: Callable[[], object]) -> Row:
    """Return number, total time and the largest of the kernels of one update."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        update()
        torch.cuda.synchronize()
    events = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    events = [event for event in events if not event.name.startswith(NO_KERNELS)]
    times: dict[str, list[float]] = {}
    for event in events:
        times.setdefault(event.name[:60], []).append(event.device_time)
    largest = sorted(times.items(), key=lambda item: -sum(item[1]))[:12]
    return {
        "kernels": len(events),
        "kernels_ms": sum(map(sum, times.values())) / 1e3,
        "largest": [(name, len(taken), round(sum(taken) / 1e3, 2)) for name, taken in largest],
    }


def waits(update: Callable[[], object]) -> list[str]:
    """Return the lines of the project in which an update waits for the GPU, by torch's sync debug mode."""
    seen: dict[str, int] = {}

    def note(message: Any, _category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "called a synchronizing" not in str(message):  # not the notice that the mode is a prototype
            return
        ours = [frame for frame in traceback.extract_stack() if "/shrinkserve/" in frame.filename]
        place = (
            f"{ours[-1].filename.rpartition('/shrinkserve/')[2]}:{ours[-1].lineno}" if ours else f"{filename}:{lineno}"
        )
        seen[place] = seen.get(place, 0) + 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before, warnings.showwarning = warnings.showwarning, note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before
    return [f"{place} x{times}" for place, times in seen.items()]
