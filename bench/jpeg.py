"""Compare JPEG decoding in the server's ensemble with decoding in the client.

    python bench/jpeg.py --out bench/results/jpeg.json [--quick] [--keep FOLDER] [--run RUN]

Photographs of 500x375 pixels, the server from PyPI, gRPC; client and server share the machine. The ways take turns,
with one and with eight requests in flight. The table has the time of an image: by Triton's statistics of each model,
the decoding in the client, and the rest, which is the connection and the libraries of both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from loader import make_photos
from network import FULL, QUICK
from published import CLASSIFIER, NAME, published
from serving import CORES

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.load.run import Load, closed_loop
from shrinkserve.benchmark.load.triton_stats import TritonStatistics
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.targets.target import Pixels, Predict, Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.config import ServingConfig
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.client.prediction import encoded_request
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@dataclass
class Way:
    """Way of an image from its file to its class.

    Attributes:
        name: name in the table.
        target: takes one encoded image, uint8 [1, bytes].
        models: models of Triton in the order of the image.
        decoding: seconds of decoding in the client, for each image.
        loads: load tests.
    """

    name: str
    target: Target
    models: list[str]
    decoding: list[float] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    wire: list[float] = field(default_factory=list)


def by_server(url: str) -> Way:
    """Return the way through the ensemble."""

    @contextmanager
    def connect() -> Iterator[Predict]:
        with Client(url) as client:
            yield lambda image: client.send(encoded_request(NAME, image.tobytes(), 1, 0)).tensors["probabilities"]

    target = Target("server decodes", "server", "float32", url, connect)
    return Way(target.name, target, [f"{NAME}_preprocess", CLASSIFIER])


def by_client(url: str, contract: ModelInfo, *, shared: bool) -> Way:
    """Return the way with decoding in the client; pixels are sent over the connection or in shared memory."""
    name = f"client decodes{', shared memory' if shared else ''}"
    spent: list[float] = []

    @contextmanager
    def connect() -> Iterator[Predict]:
        with Client(url, shared_memory=shared) as client:

            def answer(image: Pixels) -> Any:
                started = time.perf_counter()
                pixels = contract.preprocess.evaluate_bytes(image.tobytes())
                spent.append(time.perf_counter() - started)
                return client.infer(contract.model, pixels[None])[1]

            yield answer

    return Way(name, Target(name, "server", "float32", url, connect), [contract.model], spent)


def measure(way: Way, images: list[Pixels], concurrency: int, timing: Timing, url: str) -> None:
    """Run a load test, with Triton's statistics of each model and the bytes over the loopback device."""
    way.decoding.clear()
    with Client(url) as client:
        accounts = {model: TritonStatistics(lambda model=model: client.statistics(model)) for model in way.models}
        for account in accounts.values():
            account.begin()
        before = _passed()
        load = closed_loop(way.target, images, concurrency, timing)
        after = _passed()
        for account in accounts.values():
            account.end()
    counted = {model: plain(account.to_record()) for model, account in accounts.items()}
    asked = next(iter(counted.values()), None)
    assert asked is not None
    way.loads.append(load)
    way.wire.append((after - before) / asked["requests"])
    way.parts.append({"decoding": 1e3 * statistics.fmean(way.decoding) if way.decoding else 0.0, **counted})


def asked(
    url: str,
    contract: ModelInfo,
    images: list[Pixels],
    shape: tuple[int, int],
    concurrency: int,
    rounds: int,
    timing: Timing,
) -> list[dict[str, Any]]:
    """Measure all ways in turn, `rounds` times."""
    ways = [by_server(url), by_client(url, contract, shared=False), by_client(url, contract, shared=True)]
    for number in range(rounds):
        for way in ways:
            measure(way, images, concurrency, timing, url)
            load = way.loads[-1]
            print(
                f"round {number + 1}: {way.name}, concurrency {concurrency}: "
                f"p50 {1e3 * load.latency.percentile(50):.2f} ms, {load.throughput:.1f} images/s",
                flush=True,
            )
    return [entry(way, concurrency, shape) for way in ways]


def _passed() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def entry(way: Way, concurrency: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Return a row with medians over the rounds."""

    def middle(figure: Callable[[Load, dict[str, Any]], float]) -> float:
        return statistics.median(figure(*pair) for pair in zip(way.loads, way.parts, strict=True))

    row: dict[str, Any] = {
        "way": way.name,
        "concurrency": concurrency,
        "instances": shape[0],
        "threads": shape[1],
        "p50_ms": middle(lambda load, _: 1e3 * load.latency.percentile(50)),
        "p99_ms": middle(lambda load, _: 1e3 * load.latency.percentile(99)),
        "images_per_second": middle(lambda load, _: load.throughput),
        "wire_kB_per_image": statistics.median(way.wire) / 1e3,
        "errors": sum(window.errors for load in way.loads for window in load.windows),
        "client_decoding_ms": middle(lambda _, parts: parts["decoding"]),
    }
    spent = row["client_decoding_ms"]
    for model in way.models:
        label = "decode" if model.endswith("_preprocess") else "classify"
        for phase in ("queue", "compute_input", "compute_infer", "compute_output"):
            row[f"{label}_{phase}_ms"] = middle(lambda _, parts, m=model, p=phase: parts[m]["mean_ms"][p])
            spent += row[f"{label}_{phase}_ms"]
    mean = middle(lambda load, _: 1e3 * concurrency / load.throughput)
    return row | {"mean_ms": mean, "rest_ms": mean - spent}


@contextmanager
def deployed(models: Path, scratch: Path, shape: tuple[int, int]) -> Iterator[tuple[TritonServer, ModelInfo]]:
    """Start a server for JPEG and pixels with this shape of the classifier, and return it with its model info."""
    root = scratch / f"{shape[0]}x{shape[1]}"
    shutil.copytree(models, root)
    Repository(root).configure(CLASSIFIER, ServingConfig(instances=shape[0], threads=shape[1]))
    with TritonServer(root, ServerOptions(log_file=scratch / "triton.log")) as server:
        with Client(server.grpc_url) as client:
            contract = client.model_info(NAME)
        yield server, contract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224; random weights without")
    parser.add_argument("--keep", type=Path, help="where the model is made, or was by an earlier run")
    parser.add_argument("--quick", action="store_true", help="a small network and one short round")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    rounds, timing = (1, Timing(0.05, 0.1, 2, 2)) if options.quick else (3, Timing(0.5, 1.25, 2, 2))
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as folder:
        scratch = Path(folder)
        models = published(options.keep or scratch, options.run, notes, scale)
        make_photos(scratch / "photos", 16)
        files = sorted((scratch / "photos/folder").rglob("*.jpg"))
        images = [np.frombuffer(path.read_bytes(), np.uint8)[None] for path in files]
        for shape, concurrency in (((1, CORES), 1), ((CORES, 1), 8)):
            with deployed(models, scratch, shape) as (server, contract):
                rows += asked(server.grpc_url, contract, images, shape, concurrency, rounds, timing)
    size = statistics.fmean(image.size for image in images) / 1e3
    about = plain(environment("nvidia-dali-cuda120", "nvidia-dali-cuda130"))
    record = {
        "title": "JPEG decoding in the server's ensemble and in the client",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"{scale.title} on the server from PyPI, gRPC; photographs of 500x375, {size:.0f} kB of JPEG each; "
            f"pixels of an image are {3 * scale.size**2 / 1e3:.0f} kB",
            f"client and server share {os.cpu_count()} cores; the wire is the loopback device, both directions",
            "milliseconds are means per image: decoding in the client, Triton's phases of each model, and the rest "
            "(mean latency minus these: the connection, protobuf, Python of the client)",
            *notes,
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    for row in rows:
        print("  ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
