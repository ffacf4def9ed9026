"""Is the capacity plan right? Latency predicted by `bench plan` and measured on the real server, at several loads.

    python bench/capacity.py --out bench/results/capacity.json [--quick]

The server is the pip one on all cores of this machine but one, which the load generator has. The model is ShrinkCNN-A
with random weights, which change no time.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from shrinkserve.arch import load
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.spec import to_dict
from shrinkserve.artifact import Card, sha256_file, tensors_sha256, utc_now, write_atomic
from shrinkserve.benchmark.capacity import Replica, check, read_service
from shrinkserve.benchmark.environment import environment
from shrinkserve.benchmark.load import Timing, closed_loop
from shrinkserve.benchmark.target import Target, server
from shrinkserve.export.exporter import MODEL, Options, export_onnx
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import weights
from shrinkserve.serving.repository import Repository
from shrinkserve.serving.server import ServerOptions, TritonServer

SIZE, CLASSES = 224, 1001
LOADS = (0.2, 0.4, 0.6, 0.8, 1.0)
MAX_BATCH = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small image and short windows")
    options = parser.parse_args()
    size, place = 32 if options.quick else SIZE, environment()
    timing = Timing(warmup=0.2, window=0.3, agree=2, most=2) if options.quick else Timing(window=5.0, most=6)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as folder:
        repository = make_repository(Path(folder), size)
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:-1] or cores)  # what is started now inherits it
        with TritonServer(repository, ServerOptions(log_file=Path(folder) / "triton.log")) as running:
            os.sched_setaffinity(0, cores[-1:])
            rows = measure(server(running.grpc_url, "capacity", "float32"), size, timing)
    result = {
        "title": "Capacity plan: predicted against measured latency, one replica, gRPC, Poisson arrivals",
        "date": utc_now(),
        "command": shlex.join(["python", *sys.argv]),
        "environment": place,
        "rows": rows,
        "notes": [
            "The load generator has a core of its own, the server the others; both share caches and memory.",
            f"Rates are {', '.join(map(str, LOADS))} of what batches of one image allow.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def measure(target: Target, size: int, timing: Timing) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1, size, size, 3), np.uint8) for _ in range(8)]
    loads = [
        closed_loop(target, [np.repeat(image, batch, axis=0) for image in images], 1, timing).to_dict()
        for batch in (1, 2, 4, 8)
    ]
    loads.append(closed_loop(target, images, 2 * MAX_BATCH, timing).to_dict())
    replica = Replica(read_service({"loads": loads}), max_batch=MAX_BATCH)
    return check(replica, target, images, LOADS, timing, lambda text: print(text, flush=True))


def make_repository(folder: Path, size: int) -> Path:
    spec = load("shrinkcnn-a", width=0.25 if size == 32 else 1.0, input_size=size, classes=CLASSES)
    torch.manual_seed(0)
    state = weights(compile_spec(spec))
    run, staging = folder / "run", folder / "staging"
    run.mkdir()
    staging.mkdir()
    for name in ("ema", "raw"):
        save_file(state, run / f"{name}.safetensors")
    files = {f"{name}.safetensors": sha256_file(run / f"{name}.safetensors") for name in ("ema", "raw")}
    sha256 = tensors_sha256({name: tensor.numpy() for name, tensor in state.items()})
    classes = [str(number) for number in range(CLASSES)]
    preprocess = Preprocess(size=size).to_dict()
    Card("checkpoint", "capacity", "ema", sha256, files, {}, preprocess, classes, to_dict(spec)).write(run)
    card = export_onnx(run, staging, Options(max_batch=MAX_BATCH))
    Repository(folder / "repository").add("capacity", staging / MODEL, card)
    return folder / "repository"


if __name__ == "__main__":
    sys.exit(main())
