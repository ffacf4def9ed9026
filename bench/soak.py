"""Soak test: ten minutes at 80 % of the server's throughput, without errors and with constant memory.

    python bench/soak.py --out bench/results/soak.json [--quick] [--seconds 600] [--keep FOLDER] [--run RUN]

An open loop (Poisson) sends JPEG photographs to the ensemble (DALI and ONNX Runtime) of the server from PyPI over gRPC.
Memory is the proportional set size (PSS) of the server and its backend processes, so shared memory is counted once.
Before the measurement many concurrent requests make every memory pool grow to its largest batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from jpeg import by_server, deployed
from loader import make_photos
from network import FULL, QUICK
from published import published
from serving import CORES

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.timing import Timing

LOAD = 0.8
CROWD = 128
"""Concurrent requests before the measurement: they fill the largest batch, so that no pool grows later."""
MINUTE = 6
"""Windows of ten seconds in a minute."""


class Memory:
    """Sampler of the memory of a server: (seconds, MiB) for each sample, and MiB by process at the end.

    Args:
        pid: process id of the server.
        every: seconds between two samples.
    """

    def __init__(self, pid: int, every: float) -> None:
        self.samples: list[tuple[float, float]] = []
        self.parts: dict[str, float] = {}
        self._server, self._stop = psutil.Process(pid), threading.Event()
        self._every = every
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def slope(self) -> float:
        """Return the growth in MiB per minute, by least squares."""
        times, sizes = np.array(self.samples).T
        return float(60 * np.polyfit(times, sizes, 1)[0])

    def _look(self) -> None:
        began = time.monotonic()
        while True:
            self.parts = {}
            for process in (self._server, *self._server.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    instance = process.cmdline()[-2] if "stub" in process.name() else process.name()
                    self.parts[instance] = process.memory_full_info().pss / 2**20
            self.samples.append((time.monotonic() - began, sum(self.parts.values())))
            if self._stop.wait(self._every):
                return


def entry(load: Load, minute: int, memory: Memory) -> dict[str, Any]:
    """Return the row of one minute."""
    windows = load.windows[MINUTE * minute : MINUTE * (minute + 1)]
    lasts = MINUTE * load.window_seconds
    held = [size for seconds, size in memory.samples if minute <= seconds / lasts < minute + 1]
    return {
        "minute": minute + 1,
        "requests": sum(window.completed for window in windows),
        "errors": sum(window.errors for window in windows),
        "worst_p50_ms_of_a_window": max(1e3 * window.latency.percentile(50) for window in windows),
        "worst_p99_ms_of_a_window": max(1e3 * window.latency.percentile(99) for window in windows),
        "memory_mib": float(np.median(held)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224; random weights without")
    parser.add_argument("--keep", type=Path, help="where the model is made, or was by an earlier run")
    parser.add_argument("--quick", action="store_true", help="a small network and two windows of half a second")
    options = parser.parse_args()
    scale, window, every, warm = (QUICK, 0.5, 0.1, 0.2) if options.quick else (FULL, 10.0, 5.0, 2.0)
    count = 2 if options.quick else max(1, options.seconds // 10)
    seconds = window * count
    notes: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkserve-bench-")))
        models = published(options.keep or scratch, options.run, notes, scale)
        make_photos(scratch / "photos", 40)
        files = sorted((scratch / "photos/folder").rglob("*.jpg"))
        images = [np.frombuffer(path.read_bytes(), np.uint8)[None] for path in files]
        server, _ = stack.enter_context(deployed(models, scratch, (CORES, 1)))
        target = by_server(server.grpc_url).target
        most = closed_loop(target, images, 8, Timing(warm, window / 2, 2, 2)).throughput
        rate = LOAD * most
        closed_loop(target, images, CROWD, Timing(warm, window / 2, 2, 2))
        print(f"{most:.1f} images/s at most; {rate:.1f} for {seconds:g} s", flush=True)
        with Memory(server.pid, every) as memory:
            load = open_loop(target, images, OpenSchedule(rate), 64, Timing(0.0, window, count + 1, count))
    errors = sum(window.errors for window in load.windows)
    slope, first, last = memory.slope(), memory.samples[0][1], memory.samples[-1][1]
    summary = (
        f"{load.throughput:.1f} images/s, {LOAD:.0%} of {most:.1f}, for {seconds:g} s: {errors} errors, "
        f"{load.unsent} unsent; memory {first:.0f} MiB at first, {last:.0f} MiB at last, "
        f"{slope:+.2f} MiB a minute"
    )
    print(summary)
    about = plain(environment("nvidia-dali-cuda120", "nvidia-dali-cuda130"))
    record = {
        "title": f"Soak test: JPEG to {scale.title} on the server from PyPI, at 80 % load",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": [entry(load, minute, memory) for minute in range(max(1, count // MINUTE))],
        "memory_mib": memory.samples,
        "memory_mib_at_last": memory.parts,
        "memory_slope_mib_per_minute": slope,
        "errors": errors,
        "latency": plain(load.latency.to_record()),
        "notes": [
            summary,
            f"memory: PSS of the server and its backends, sampled every {every:g} s; windows of {window:g} s",
            *notes,
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
