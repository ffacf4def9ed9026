"""Compare the latency that `bench plan` predicts with that of a real server at several rates.

    python bench/capacity.py --out bench/results/capacity.json [--quick]

The server from PyPI uses all cores of this machine except one, which is for the load generator. The model is
ShrinkCNN-A with random weights; weights do not change the times.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from network import FULL, QUICK, Scale
from published import random_run

from shrinkserve.artifact import MODEL
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.capacity import Replica
from shrinkserve.benchmark.capacity_check import measure_rates
from shrinkserve.benchmark.load.run import closed_loop
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.service_times import read_service
from shrinkserve.benchmark.targets.target import Target, server_target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.exporting.exporter import ExportOptions
from shrinkserve.exporting.run_export import export_run
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.predictor import Images
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

LOADS = (0.2, 0.4, 0.6, 0.8, 0.9)
MAX_BATCH = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small network and short windows")
    options = parser.parse_args()
    scale, about = QUICK if options.quick else FULL, plain(environment())
    timing = Timing(warmup=0.05, window=0.1, agree=2, most=2) if options.quick else Timing(window=4.0, most=4)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as folder:
        repository = make_repository(Path(folder), scale)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:-1] or cores)  # inherited by the server
        with TritonServer(repository, ServerOptions(log_file=Path(folder) / "triton.log")) as running:
            os.sched_setaffinity(0, cores[-1:])
            target = server_target(running.grpc_url, "capacity", "float32")
            replica = calibrated(target, scale.images(8), timing)
            rates = [load * replica.unbatched_rate for load in LOADS]
            rows = measure_rates(replica, target, ones(scale.images(8)), rates, timing, print)
    result = {
        "title": "Capacity plan: predicted and measured latency of one replica (gRPC, Poisson arrivals)",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": plain(rows),
        "service_ms": {size: 1e3 * replica.service.of(size) for size in range(1, MAX_BATCH + 1)},
        "overhead_ms": 1e3 * replica.service.overhead,
        "notes": [
            "The load generator runs on one core, the server on the others; they share caches and memory.",
            f"Rates are {', '.join(map(str, LOADS))} of {replica.unbatched_rate:.1f} requests/s, the rate without "
            "batching, or with full batches if that is lower.",
            "The interval is that of the measured p99, at 95 %.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def ones(images: Images) -> list[Images]:
    """Return requests of one image each."""
    return list(images[:, None])


def calibrated(target: Target, images: Images, timing: Timing) -> Replica:
    """Return the replica with service times from load tests, as `bench plan` derives it from a record."""
    batches = [[np.repeat(image, batch, axis=0) for image in ones(images)] for batch in (1, 2, 4, 8)]
    loads = [closed_loop(target, requests, 1, timing).to_record() for requests in batches]
    loads.append(closed_loop(target, ones(images), 2 * MAX_BATCH, timing).to_record())
    return Replica(read_service(loads), max_batch=MAX_BATCH)


def make_repository(folder: Path, scale: Scale) -> Path:
    run, staging = random_run(folder / "run", scale), folder / "staging"
    staging.mkdir()
    card = export_run(Checkpoint(run), staging, ExportOptions(max_batch=MAX_BATCH)).card
    Repository(folder / "repository").add("capacity", staging / MODEL, card)
    return folder / "repository"


if __name__ == "__main__":
    sys.exit(main())
