"""Compare ShrinkCNN-A at 224 (plain export and ours), EfficientNet-Lite0 and torch in one interleaved run.

    python bench/export.py --out bench/results/export.json [--quick] [--run RUN]

Latency: one instance with all cores, batches of 1, 8 and 32. Throughput: all cores busy, with one instance on all cores
and with one instance on each core, batches of 1, 4 and 8; the best of these counts. Contestants take turns, each turn
starts with untimed runs, and figures are medians over the turns.

Without --run the weights are random, which does not change the times: batch norms are calibrated on synthetic images,
so activations have the size of a trained network's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machine
from contestants import Ask, Contestant, contestants
from network import FULL, QUICK, Scale, calibrated

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.predictor import Images

PLAIN = "plain, onnxruntime float32"
PEER = "EfficientNet-Lite0"


@dataclass(frozen=True)
class Effort:
    """Size of the measurement.

    Attributes:
        scale: scale of the network.
        sizes: batch sizes whose latency is measured.
        turns: turns of each contestant.
        slice: seconds of a turn for latency.
        window: seconds of a turn for throughput.
        spread: measure throughput also with one thread for each of several instances.
        peak_rounds: matrix products of each measurement of the machine's peak.
    """

    scale: Scale
    sizes: tuple[int, ...]
    turns: int
    slice: float
    window: float
    spread: bool = True
    peak_rounds: int = 30


THOROUGH = Effort(FULL, (1, 8, 32), 10, 0.12, 0.5)
BRIEF = Effort(QUICK, (1, 8), 2, 0.01, 0.02, spread=False, peak_rounds=2)


def latency(asks: dict[str, Ask], images: Images, turns: int, slice_: float) -> dict[str, list[float]]:
    """Return milliseconds per image, one figure for each turn."""
    repeats = {name: _repeats(ask, images, slice_) for name, ask in asks.items()}
    taken: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(turns):
        for name, ask in asks.items():
            ask(images)
            started = time.perf_counter()
            for _ in range(repeats[name]):
                ask(images)
            taken[name].append(1e3 * (time.perf_counter() - started) / repeats[name] / len(images))
    return taken


def _repeats(ask: Ask, images: Images, slice_: float) -> int:
    for _ in range(3):
        ask(images)
    started = time.perf_counter()
    ask(images)
    return max(1, int(slice_ / (time.perf_counter() - started)))


def throughput(
    crews: dict[str, list[Ask]], batches: Sequence[Images], turns: int, window: float
) -> dict[tuple[str, int], list[float]]:
    """Return images per second of all instances, one figure for each turn, by instances and batch size."""
    found: dict[tuple[str, int], list[float]] = {(name, len(images)): [] for images in batches for name in crews}
    for turn in range(turns + 1):
        for images in batches:
            for name, crew in crews.items():
                rate = _rate(crew, images, window)
                if turn:  # the first one is a warm-up
                    found[name, len(images)].append(rate)
    return found


def _rate(crew: Sequence[Ask], images: Images, window: float) -> float:
    counts = [0] * len(crew)
    stop = time.perf_counter() + window

    def work(index: int) -> None:
        while time.perf_counter() < stop:
            crew[index](images)
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(crew))]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) * len(images) / (time.perf_counter() - started)


def latency_rows(entrants: dict[Contestant, Ask], effort: Effort, cores: int) -> list[dict[str, Any]]:
    asks = {entrant.name: ask for entrant, ask in entrants.items()}
    differences = worst_differences(asks, effort.scale.images(32))
    rows = []
    for size in effort.sizes:
        turns = effort.turns if size < 32 else max(2, effort.turns // 2)
        taken = latency(asks, effort.scale.images(size), turns, effort.slice)
        middles = {name: statistics.median(times) for name, times in taken.items()}
        for entrant in entrants:
            name, middle = entrant.name, middles[entrant.name]
            peer = middles.get(f"{PEER}, {entrant.runtime} {entrant.precision}")
            row = {"what": name, "threads": cores, "batch": size, "ms_per_image": round(middle, 3)}
            row |= {"fastest_turn": round(min(taken[name]), 3), "slowest_turn": round(max(taken[name]), 3)}
            row |= {"times_plain": round(middles[PLAIN] / middle, 2)}
            row |= {"of_lite0": round(middle / peer, 2) if peer and entrant.what == "ours" else ""}
            rows.append(row | {"worst_logit_difference": differences.get(name, "")})
            show(rows[-1])
    return rows


def worst_differences(asks: dict[str, Ask], images: Images) -> dict[str, float]:
    """Return the largest difference of each contestant from torch in float32, relative to the largest logit or 1."""
    right = asks["ours, torch float32"](images)
    scale = max(1.0, float(np.abs(right).max()))
    ours = [name for name in asks if not name.startswith(PEER)]
    return {name: float(np.abs(asks[name](images) - right).max()) / scale for name in ours}


def throughput_rows(entrants: dict[Contestant, Ask], effort: Effort, cores: int) -> list[dict[str, Any]]:
    crews: dict[str, list[Ask]] = {}
    described: dict[str, dict[str, Any]] = {}
    for entrant, ask in entrants.items():
        if "torch" in entrant.runtime:
            continue
        for instances, threads in ((1, cores), (cores, 1))[: 1 + effort.spread]:
            name = f"{entrant.name} {instances}x{threads}"
            crews[name] = [ask] if instances == 1 else [entrant.open(threads) for _ in range(instances)]
            described[name] = {"what": entrant.name, "instances": instances, "threads": threads}
    rows, batches = [], [effort.scale.images(size) for size in (1, 4, 8)]
    for (name, size), rates in throughput(crews, batches, max(2, effort.turns // 2), effort.window).items():
        middle, fastest = round(statistics.median(rates), 1), round(max(rates), 1)
        rows.append({**described[name], "batch": size, "images_per_second": middle, "fastest_turn": fastest})
        show(rows[-1])
    return rows


def best_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the configuration with the highest throughput of each contestant."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row["images_per_second"]):
        best.setdefault(row["what"], row)
    plain = best[PLAIN]["images_per_second"]
    return [{**row, "times_plain": round(row["images_per_second"] / plain, 2)} for row in best.values()]


def usable(entrants: Iterable[Contestant], images: Images, cores: int) -> tuple[dict[Contestant, Ask], list[str]]:
    """Open the contestants that run here; return why others do not, e.g. compiled torch without a compiler."""
    found: dict[Contestant, Ask] = {}
    notes = []
    for entrant in entrants:
        try:
            ask = entrant.open(cores)
            ask(images)
        except Exception as exc:  # noqa: BLE001 - a peer may raise anything; the others are compared
            notes.append(f"left out: {entrant.name}: {str(exc).splitlines()[0]}")
        else:
            found[entrant] = ask
    return found, notes


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small network, few turns, no compiled torch")
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    effort = BRIEF if arguments.quick else THOROUGH
    scale, about = effort.scale, plain(environment())
    network = Checkpoint(arguments.run).module if arguments.run else calibrated(scale)
    with tempfile.TemporaryDirectory() as folder:
        compared = contestants(network, scale, Path(folder), compiled=not arguments.quick)
        entrants, left_out = usable(compared, scale.images(1), cores)
        rows = latency_rows(entrants, effort, cores)
        busy = throughput_rows(entrants, effort, cores)
    best = best_rows(busy)
    for row in best:
        show(row)
    report = {
        "title": f"Export: {scale.title} against plain export, EfficientNet-Lite0 and torch",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows + busy + [{**row, "what": f"best: {row['what']}"} for row in best],
        "notes": [
            *(
                f"peak, {cores} threads: {name} {rate:.0f} G operations/s"
                for name, rate in machine.peaks(cores, effort.peak_rounds).items()
            ),
            *left_out,
            "at 224 ShrinkCNN-A is 384 M, EfficientNet-Lite0 407 M multiply-accumulates",
            "worst_logit_difference is relative to torch in float32, in units of the largest logit",
        ],
    }
    write_atomic(arguments.out, (json.dumps(report, indent=1) + "\n").encode())
    print("\n".join(report["notes"]))


if __name__ == "__main__":
    main()
