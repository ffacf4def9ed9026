"""Profile every operator before and after the graph passes, and of the peer.

    python bench/operators.py --out bench/results/operators.json [--batch 1] [--quick]

Uses the profilers of ONNX Runtime and OpenVINO. Figures are sums of the median of each operator over many runs.
Profiling makes every operator a microsecond or two slower, so use the shares; totals are in bench/export.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machine
from contestants import optimised, plain_files, quantised
from network import FULL, QUICK, Scale, calibrated

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.exporting.optimise import SHIPPED
from shrinkserve.exporting.samples import synthetic
from shrinkserve.runtimes.onnx import INPUT, open_session
from shrinkserve.runtimes.openvino import HINTS, shared_core

Microseconds = dict[tuple[str, str], list[float]]
"""(operator, node) -> its time in every run."""
WARM_UP = 10


def in_onnxruntime(path: Path, images: np.ndarray[Any, Any], runs: int, threads: int) -> Microseconds:
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, threads, profile=Path(folder) / "profile")
        for _ in range(runs + WARM_UP):
            session.run(None, {INPUT: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: Microseconds = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"], event["name"]].append(event["dur"])
    return taken


def in_openvino(path: Path, images: np.ndarray[Any, Any], runs: int, threads: int, precision: str) -> Microseconds:
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": True,
    }
    model = shared_core().read_model(str(path))
    model.reshape({INPUT: images.shape})  # as `FixedBatches` compiles it
    request = shared_core().compile_model(model, "CPU", properties).create_infer_request()
    taken: Microseconds = defaultdict(list)
    for _ in range(runs + WARM_UP):
        request.infer({INPUT: images})
        for found in request.profiling_info:
            if seconds := found.real_time.total_seconds():
                taken[found.node_type, found.node_name].append(1e6 * seconds)
    return taken


def summary(what: str, taken: Microseconds, batch: int) -> Iterator[dict[str, Any]]:
    """Return one row for each operator and one for all, in microseconds per image."""
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for (operator, _), times in taken.items():
        # A node of less than a microsecond has a time in a few runs only.
        total[operator] += statistics.median(times[WARM_UP:] or times) / batch
        count[operator] += 1
    everything = sum(total.values())
    for operator, time in total.most_common():
        share = round(100 * time / everything, 1)
        yield {
            "what": what,
            "operator": operator,
            "nodes": count[operator],
            "us_per_image": round(time),
            "percent": share,
        }
    yield {
        "what": what,
        "operator": "all",
        "nodes": sum(count.values()),
        "us_per_image": round(everything),
        "percent": 100.0,
    }


def profiles(folder: Path, scale: Scale, batch: int, runs: int, threads: int) -> Iterator[tuple[str, Microseconds]]:
    images = scale.images(batch)
    plain, peer = plain_files(calibrated(scale), scale, folder)
    ours, vino, int8 = (folder / f"{name}.onnx" for name in ("ours", "vino", "int8"))
    optimised(plain, ours, SHIPPED["onnxruntime-cpu"])
    optimised(plain, vino, SHIPPED["openvino"])
    quantised(vino, int8, "openvino", synthetic(scale.size, 16))
    for name, path in (("plain", plain), ("ours", ours), ("EfficientNet-Lite0", peer)):
        yield f"{name}, onnxruntime float32", in_onnxruntime(path, images, runs, threads)
    for name, path in (("plain", plain), ("ours", vino), ("EfficientNet-Lite0", peer)):
        yield f"{name}, openvino float32", in_openvino(path, images, runs, threads, HINTS["float32"])
    yield "ours, openvino bfloat16", in_openvino(vino, images, runs, threads, HINTS["bfloat16"])
    yield "ours, openvino int8", in_openvino(int8, images, runs, threads, HINTS["int8"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a small network and few runs")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    scale, runs = (QUICK, 10) if arguments.quick else (FULL, 100)
    about = plain(environment())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for what, taken in profiles(Path(folder), scale, arguments.batch, runs, threads):
            rows += summary(what, taken, arguments.batch)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    peaks = machine.peaks(threads)
    report = {
        "title": f"Operators of {scale.title} before and after the graph passes",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"batch {arguments.batch}, {threads} threads",
            *(f"peak, {threads} threads: {name} {rate:.0f} G operations/s" for name, rate in peaks.items()),
        ],
    }
    write_atomic(arguments.out, (json.dumps(report, indent=1) + "\n").encode())
    print("\n".join(report["notes"]))


if __name__ == "__main__":
    main()
