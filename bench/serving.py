"""The pip server beside its peers, on one ONNX file and in one interleaved run: latency and throughput.

    python bench/serving.py --out bench/results/serving.json [--quick] [--no-peers] [--keep FOLDER] [--run RUN]

Every server gets the same uint8 images, one a request, over its own fastest protocol, from the same load generator on
the same machine. Each is deployed in two ways: one instance with all threads (for latency, asked by one and by eight
at once), and one single-threaded instance a core (for throughput, asked by eight). Ours also runs the other
precisions of `bench/published.py`. Peers are installed into environments of their own in the user's cache, and left
out with a note when that fails. --keep makes the model once, or takes the one that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent))
import rivals
from published import CLASSIFIER, SIZE, published

from shrinkserve.artifact import write_atomic
from shrinkserve.benchmark.environment import environment
from shrinkserve.benchmark.load import Load, Timing, closed_loop
from shrinkserve.benchmark.target import Answer, Pixels, Target
from shrinkserve.config import ServingConfig
from shrinkserve.serving import model_config
from shrinkserve.serving.client import Client
from shrinkserve.serving.repository import Repository
from shrinkserve.serving.server import ServerOptions, TritonServer

CORES = len(os.sched_getaffinity(0))
LATENCY, THROUGHPUT = (1, CORES), (CORES, 1)
"""Instances and threads of each."""
SPINNING = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a target under one load."""

    server: str
    shape: tuple[int, int]
    target: Target
    concurrency: int = 1
    batch: int = 1


@contextmanager
def ours(
    models: Path, scratch: Path, shape: tuple[int, int], engine: str | None, parameters: dict[str, str] | None = None
) -> Iterator[Target]:
    """The pip server on a copy of the repository whose config asks for so many instances and threads."""
    root = scratch / f"{engine}-{shape[0]}-{len(parameters or {})}"
    name = CLASSIFIER
    shutil.copytree(models / name, root / name)  # without the parts that decode JPEG
    repository = Repository(root)
    repository.configure(name, ServingConfig(instances=shape[0], threads=shape[1]), engine)
    if parameters:
        path = root / name / model_config.CONFIG
        config = model_config.read(path)
        for key, value in parameters.items():
            config.parameters[key].string_value = value
        path.write_text(model_config.to_text(config))
    options = ServerOptions(engine=engine, log_file=scratch / f"{root.name}.log")
    with TritonServer(root, options) as server, Client(server.grpc_url) as client:
        address = server.grpc_url.removeprefix("grpc://")
        precision = client.contract(name).precision
        yield rivals.grpc_target("shrinkserve", address, name, precision, lambda: client.statistics(name))


def session(model: Path, *, spins: bool) -> Target:
    """The bare session, what no server can beat at batch 1. ONNX Runtime's threads spin by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    opened = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    @contextmanager
    def connect() -> Iterator[Answer]:
        yield lambda images: opened.run(["logits"], {"images": images})[0]

    return Target("session", "onnx", "float32", model.name, connect)


def asked(server: str, shape: tuple[int, int], target: Target) -> list[Row]:
    """The rows of one deployment."""
    concurrencies = (1, 8) if shape == LATENCY else (8,)
    return [Row(server, shape, target, concurrency) for concurrency in concurrencies]


def deploy(stack: ExitStack, models: Path, scratch: Path, *, peers: bool, notes: list[str]) -> list[Row]:
    """Start everything; what is to be measured."""
    (model,) = (models / CLASSIFIER).glob("*/model.onnx")
    rows = []
    for spins in (False, True):
        bare, what = session(model, spins=spins), f"bare session{', spinning' if spins else ''}"
        rows += [Row(what, LATENCY, bare, batch=batch) for batch in (1, 4, 8)]
    for engine in (None, *Repository(models).engines(CLASSIFIER)):
        for shape in (LATENCY, THROUGHPUT):
            target = stack.enter_context(ours(models, scratch, shape, engine))
            rows += asked(f"shrinkserve {target.precision}", shape, target)
    spinning = stack.enter_context(ours(models, scratch, LATENCY, None, SPINNING))
    rows.append(Row("shrinkserve float32, spinning", LATENCY, spinning))
    for peer in rivals.PEERS if peers else ():
        try:
            if not peer.installed:
                print(f"installing {peer.name} into {peer.python.parents[1]}", flush=True)
                peer.install()
            for shape in (LATENCY, THROUGHPUT):
                rows += asked(peer.name, shape, stack.enter_context(rivals.running(peer, model, *shape)))
        except (subprocess.CalledProcessError, RuntimeError) as fault:
            rows = [row for row in rows if row.server != peer.name]
            notes.append(f"{peer.name} was not measured: {' '.join(str(fault).split())[:400]}")
            print(notes[-1], flush=True)
    return rows


def worst_difference(reference: Target, target: Target, images: list[Pixels]) -> float:
    """Of logits to the session's, relative to their range: each server must be right."""
    with reference.open() as wanted, target.open() as answer:
        pairs = [(wanted(image), answer(image)) for image in images[:4]]
    return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in pairs)


def measure(rows: list[Row], rounds: int, timing: Timing) -> list[dict[str, Any]]:
    """Measure all in turn, `rounds` times over; a figure is the median of its rounds."""
    random = np.random.default_rng(0)
    images = {n: list(random.integers(0, 256, (8, n, SIZE, SIZE, 3), dtype=np.uint8)) for n in (1, 4, 8)}
    differences = {row.target: worst_difference(rows[0].target, row.target, images[1]) for row in rows}
    loads: dict[Row, list[Load]] = {row: [] for row in rows}
    for number in range(rounds):
        for row, found in loads.items():
            load = closed_loop(row.target, images[row.batch], row.concurrency, timing)
            found.append(load)
            print(
                f"round {number + 1}: {row.server} {row.shape[0]}x{row.shape[1]}, batch {row.batch}, concurrency "
                f"{row.concurrency}: p50 {1e3 * load.latency.percentile(50):.2f} ms, {load.throughput:.1f} images/s",
                flush=True,
            )
    return [entry(row, found, differences[row.target]) for row, found in loads.items()]


def entry(row: Row, loads: list[Load], difference: float) -> dict[str, Any]:
    """A row as plain data."""

    def middle(figures: Iterator[float]) -> float:
        return statistics.median(figures)

    servers = [load.server for load in loads if load.server]
    phases = servers[0]["mean_ms"] if servers else {}
    return {
        "server": row.server,
        "instances": row.shape[0],
        "threads": row.shape[1],
        "batch": row.batch,
        "concurrency": row.concurrency,
        "p50_ms": middle(1e3 * load.latency.percentile(50) for load in loads),
        "p99_ms": middle(1e3 * load.latency.percentile(99) for load in loads),
        "images_per_second": middle(load.throughput for load in loads),
        "spread": [min(load.throughput for load in loads), max(load.throughput for load in loads)],
        "errors": sum(window.errors for load in loads for window in load.windows),
        "worst_relative_logit_difference": difference,
        "triton_mean_ms": {phase: middle(server["mean_ms"][phase] for server in servers) for phase in phases},
        "images_per_execution": middle(s["images_per_execution"] for s in servers) if servers else None,
    }


def verdict(rows: list[dict[str, Any]], peers: set[str]) -> list[str]:
    """What the figures mean, against what we aim at."""

    def best(names: set[str], concurrency: int, key: str, **more: Any) -> float:
        wanted = {"concurrency": concurrency, **more}
        found = [row[key] for row in rows if row["server"] in names and wanted.items() <= row.items()]
        return (min if key == "p50_ms" else max)(found)

    served = {row["server"] for row in rows if row["server"].startswith("shrinkserve")}
    said = []
    for more in ("", ", spinning"):
        one, bare = (best({f"{who}{more}"}, 1, "p50_ms", batch=1) for who in ("shrinkserve float32", "bare session"))
        said.append(f"p50 at concurrency 1{more}: {one:.2f} ms, {one / bare:.2f} x the session's {bare:.2f} ms")
    session_best = best({"bare session", "bare session, spinning"}, 1, "images_per_second")
    many = best({"shrinkserve float32"}, 8, "images_per_second")
    said.append(f"float32 at concurrency 8: {many:.1f} images/s, {many / session_best:.2f} x the session's best")
    for concurrency in (1, 8) if peers else ():
        rival = best(peers, concurrency, "images_per_second")
        equal, fastest = (best(names, concurrency, "images_per_second") for names in ({"shrinkserve float32"}, served))
        said.append(
            f"concurrency {concurrency}: {equal / rival:.2f} x the best peer at float32, "
            f"{fastest / rival:.2f} x with the fastest precision ({rival:.1f}, {equal:.1f}, {fastest:.1f} images/s)"
        )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224; random weights without")
    parser.add_argument("--keep", type=Path, help="where the model is made, or was by an earlier run")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="make the model and install the peers, no more")
    parser.add_argument("--quick", action="store_true", help="one short round, and only peers that are installed")
    options = parser.parse_args()
    rounds, timing = (1, Timing(0.3, 0.7, 2, 2)) if options.quick else (3, Timing(0.5, 1.25, 2, 2))
    notes: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkserve-bench-")))
        models = published(options.keep or scratch, options.run, notes)
        peers = not options.no_peers and (not options.quick or all(peer.installed for peer in rivals.PEERS))
        if options.prepare:
            for peer in rivals.PEERS:
                if peers and not peer.installed:
                    peer.install()
            return
        found = measure(deploy(stack, models, scratch, peers=peers, notes=notes), rounds, timing)
    said = verdict(found, {peer.name for peer in rivals.PEERS} & {row["server"] for row in found})
    print("\n".join(said))
    about = environment()
    record = {
        "title": "Serving ShrinkCNN-A at 224: the pip server beside its peers",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": found,
        "notes": [
            *said,
            "closed loops; one uint8 224x224x3 image a request, the bare session alone also in batches",
            "the load generator shares the cores with the servers",
            "threads do not spin while they wait, peers' neither, except in the rows that say so",
            *notes,
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
