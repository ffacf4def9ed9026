"""Compare latency and throughput of the server from PyPI and its peers with one ONNX file.

    python bench/serving.py --out bench/results/serving.json [--quick] [--no-peers] [--keep FOLDER] [--run RUN]

Every server gets the same uint8 images, one in a request, over its fastest protocol, from the same load generator on
the same machine, one server at a time. Each is deployed in two ways: one instance with all threads (for latency, with
one and with eight requests in flight), and one single-threaded instance on each core (for throughput, with eight).
Ours also runs the other precisions of `bench/published.py`. Peers are installed into separate environments in the
user's cache, and left out with a note if that fails. --keep makes the model once and uses it again.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent))
import rivals
from network import FULL, QUICK
from published import CLASSIFIER, add_precisions, published

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.load.run import Load, closed_loop
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.targets.target import Pixels, Predict, Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.config import ServingConfig
from shrinkserve.errors import RequestError
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.engine_config import engine_config_path
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

CORES = len(os.sched_getaffinity(0))
LATENCY, THROUGHPUT = (1, CORES), (CORES, 1)
"""Instances and threads of each."""
BATCH = 4
"""Largest batch with several instances, for ours and the peers: larger batches leave an instance idle."""
PEERS = {peer.name for peer in rivals.PEERS}
WAITS = {
    "": {"session.intra_op.allow_spinning": "1"},
    ", brief spins": {"session.intra_op.spin_duration_us": "30", "session.force_spinning_stop": "1"},
    ", no spins": {"session.intra_op.allow_spinning": "0"},
}
"""Ways in which threads of a session wait: spin for milliseconds (ONNX Runtime's default), as our backend, sleep."""


@dataclass(frozen=True)
class Deployment:
    """Server and its configuration.

    Attributes:
        server: name in the table.
        shape: instances, and threads of each instance.
        open: context manager that starts and ends it.
        loads: load tests: concurrency, and images in a request.
    """

    server: str
    shape: tuple[int, int]
    open: Callable[[], AbstractContextManager[Target]]
    loads: Sequence[tuple[int, int]]


@contextmanager
def ours(
    models: Path, shape: tuple[int, int], engine: str | None, entries: dict[str, str], *, shared: bool = False
) -> Iterator[Target]:
    """Start the server from PyPI on a copy of the repository with this number of instances and threads.

    Requests are sent over gRPC, as for the peers, or by our client in `shared` memory.
    """
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as scratch:
        root = Path(scratch) / "models"
        shutil.copytree(models / CLASSIFIER, root / CLASSIFIER)  # without the models that decode JPEG
        repository = Repository(root)
        batch = BATCH if shape == THROUGHPUT else ServingConfig().max_batch_size
        chosen = ServingConfig(instances=shape[0], threads=shape[1], max_batch_size=batch)
        repository.configure(CLASSIFIER, chosen, engine)
        path = engine_config_path(root / CLASSIFIER, engine) if engine else root / CLASSIFIER / model_config.CONFIG
        config = config_text.read_config(path)
        for key, value in entries.items():
            config.parameters[key].string_value = value
        path.write_text(config_text.to_text(config))
        options = ServerOptions(engine=engine, log_file=Path(scratch) / "triton.log")
        with TritonServer(root, options) as server, Client(server.grpc_url) as client:
            address = server.grpc_url.removeprefix("grpc://")
            precision = client.model_info(CLASSIFIER).precision
            target = rivals.grpc_target("grpc", address, CLASSIFIER, precision, lambda: client.statistics(CLASSIFIER))
            yield replace(target, open=partial(in_shared_memory, server.grpc_url)) if shared else target


@contextmanager
def in_shared_memory(url: str) -> Iterator[Predict]:
    """Return the target of a client that sends images in shared memory."""
    with Client(url, shared_memory=True) as client:
        yield lambda images: client.infer(CLASSIFIER, images)[0]


@contextmanager
def session(model: Path, entries: dict[str, str]) -> Iterator[Target]:
    """Return the target of the session without a server, the lower bound at batch 1."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    opened = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    @contextmanager
    def connect() -> Iterator[Predict]:
        yield lambda images: opened.run(["logits"], {"images": images})[0]

    yield Target("session", "onnx", "float32", model.name, connect)


def deployments(models: Path, size: int, peers: Sequence[rivals.Peer], *, quick: bool) -> list[Deployment]:
    """Return all deployments; with `quick`, one of each kind."""
    (model,) = (models / CLASSIFIER).glob("*/model.onnx")
    alone, many = (1, 1), (8, 1)
    loads = {LATENCY: (alone, many), THROUGHPUT: (many,)}
    found = [
        Deployment(f"bare session{waits}", LATENCY, partial(session, model, entries), (alone, (1, 4), (1, 8)))
        for waits, entries in WAITS.items()
    ]
    for engine in (None, *Repository(models).engines(CLASSIFIER)):
        name = f"shrinkserve {engine or 'float32'}"
        found += [Deployment(name, shape, partial(ours, models, shape, engine, {}), loads[shape]) for shape in loads]
    handed = partial(ours, models, LATENCY, None, {}, shared=True)
    found.append(Deployment("shrinkserve float32, shared memory", LATENCY, handed, loads[LATENCY]))
    asleep = partial(ours, models, LATENCY, None, WAITS[", no spins"])
    found.append(Deployment("shrinkserve float32, no spins", LATENCY, asleep, (alone,)))
    for peer in peers:
        started = partial(rivals.running, peer, model, size)
        found += [Deployment(peer.name, shape, partial(started, *shape), loads[shape]) for shape in loads]
    if quick:
        kept = {("bare session", LATENCY), ("shrinkserve float32", LATENCY), ("shrinkserve bfloat16", THROUGHPUT)}
        kept |= {("shrinkserve float32, shared memory", LATENCY), *((peer.name, LATENCY) for peer in peers[:1])}
        found = [one for one in found if (one.server, one.shape) in kept]
    return found


def install(notes: list[str]) -> None:
    """Install the missing peers."""
    for peer in rivals.PEERS:
        try:
            if not peer.installed:
                print(f"installing {peer.name} into {peer.python.parents[1]}", flush=True)
                peer.install()
        except subprocess.CalledProcessError as exc:
            notes.append(f"{peer.name} was not measured: {' '.join(str(exc.stderr or exc).split())[-300:]}")
            print(notes[-1], flush=True)


def measure(found: list[Deployment], size: int, rounds: int, timing: Timing, notes: list[str]) -> list[dict[str, Any]]:
    """Start, measure and end all in turn, `rounds` times; figures are medians over the rounds.

    Only one server runs at a time: idle servers made the measured one a fifth slower. A peer that does not respond
    is left out, with a line in `notes`.
    """
    random = np.random.default_rng(0)
    images = {n: list(random.integers(0, 256, (8, n, size, size, 3), dtype=np.uint8)) for n in (1, 4, 8)}
    with found[0].open() as reference, reference.open() as answer:
        right = [answer(image) for image in images[1][:4]]
    loads: dict[tuple[int, tuple[int, int]], list[Load]] = {}
    differences: dict[int, float] = {}
    silent: set[int] = set()
    for turn in range(rounds):
        for number, one in enumerate(found):
            if number in silent:
                continue
            try:
                with one.open() as target:
                    differences.setdefault(number, worst_difference(right, target, images[1]))
                    for shape in one.loads:
                        load = asked(target, one, images[shape[1]], shape[0], timing, turn)
                        loads.setdefault((number, shape), []).append(load)
            except (rivals.SilentError, RequestError) as exc:
                if one.server not in PEERS:
                    raise
                silent.add(number)
                notes.append(f"round {turn + 1}: {one.server} {one.shape}: {' '.join(str(exc).split())}")
                print(notes[-1], flush=True)
    return [entry(found[number], *load, these, differences[number]) for (number, load), these in loads.items()]


def asked(target: Target, one: Deployment, images: list[Pixels], concurrency: int, timing: Timing, turn: int) -> Load:
    """Run a load test."""
    load = closed_loop(target, images, concurrency, timing)
    shape = "x".join(map(str, one.shape))
    print(
        f"round {turn + 1}: {one.server} {shape}, batch {len(images[0])}, concurrency {concurrency}: "
        f"p50 {1e3 * load.latency.percentile(50):.2f} ms, {load.throughput:.1f} images/s",
        flush=True,
    )
    return load


def worst_difference(right: list[Any], target: Target, images: list[Pixels]) -> float:
    """Return the largest difference of logits from the session's, relative to their range."""
    with target.open() as answer:
        found = [answer(image) for image in images[: len(right)]]
    return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in zip(right, found, strict=True))


def entry(one: Deployment, concurrency: int, batch: int, loads: list[Load], difference: float) -> dict[str, Any]:
    """Return a row."""

    def middle(figures: Iterator[float]) -> float:
        return statistics.median(figures)

    servers = [plain(load.server) for load in loads if load.server]
    phases = servers[0]["mean_ms"] if servers else {}
    return {
        "server": one.server,
        "instances": one.shape[0],
        "threads": one.shape[1],
        "batch": batch,
        "concurrency": concurrency,
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
    """Return notes that compare the figures with our goals."""

    def best(names: set[str], concurrency: int, key: str, **more: Any) -> float:
        wanted = {"concurrency": concurrency, **more}
        found = [row[key] for row in rows if row["server"] in names and wanted.items() <= row.items()]
        return (min if key == "p50_ms" else max)(found)

    served = {row["server"] for row in rows if row["server"].startswith("shrinkserve")}
    verdicts = []
    sessions = {f"bare session{waits}" for waits in WAITS}
    bare, one = best(sessions, 1, "p50_ms", batch=1), best({"shrinkserve float32"}, 1, "p50_ms")
    verdicts.append(f"p50 at concurrency 1: {one:.2f} ms, {one / bare:.2f} x the fastest session's {bare:.2f} ms")
    handed = {"shrinkserve float32, shared memory"}
    if handed <= served:
        shared = best(handed, 1, "p50_ms")
        verdicts.append(f"the same with images in shared memory: {shared:.2f} ms, {shared / bare:.2f} x")
    session_best, many = (
        best(names, at, "images_per_second") for names, at in ((sessions, 1), ({"shrinkserve float32"}, 8))
    )
    verdicts.append(f"float32 at concurrency 8: {many:.1f} images/s, {many / session_best:.2f} x the best session's")
    tested = {row["concurrency"] for row in rows if row["server"] in peers}
    for concurrency in sorted(tested):
        rival = best(peers, concurrency, "images_per_second")
        equal, fastest = (best(names, concurrency, "images_per_second") for names in ({"shrinkserve float32"}, served))
        verdicts.append(
            f"concurrency {concurrency}: {equal / rival:.2f} x the best peer at float32, "
            f"{fastest / rival:.2f} x with the fastest precision ({rival:.1f}, {equal:.1f}, {fastest:.1f} images/s)"
        )
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224; random weights without")
    parser.add_argument("--keep", type=Path, help="where the model is made, or was by an earlier run")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prepare", action="store_true", help="make the model and install the peers, no more")
    parser.add_argument("--quick", action="store_true", help="a small network, one way of each kind, one short round")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    rounds, timing = (1, Timing(0.05, 0.1, 2, 2)) if options.quick else (options.rounds, Timing(0.5, 1.25, 2, 2))
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as scratch:
        models = published(options.keep or Path(scratch), options.run, notes, scale)
        if options.run is None:
            add_precisions(models, scale)
        if not (options.quick or options.no_peers):
            install(notes)
        if options.prepare:
            return
        peers = [peer for peer in rivals.PEERS if peer.installed and not options.no_peers]
        if options.quick:
            notes.append(f"quick: one way of each kind, and of the peers {peers[0].name if peers else 'none'}")
        compared = deployments(models, scale.size, peers, quick=options.quick)
        found = measure(compared, scale.size, rounds, timing, notes)
    verdicts = verdict(found, PEERS & {row["server"] for row in found})
    print("\n".join(verdicts))
    about = plain(environment())
    record = {
        "title": f"Serving {scale.title}: the server from PyPI and its peers",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": found,
        "notes": [
            *verdicts,
            "closed loops with one uint8 image in a request; the session without a server also in batches",
            "the load generator shares the cores with the server; no other server runs at the same time",
            "threads spin for 30 us at most while they wait, peers' too (PyTriton's longer: an older ONNX Runtime), "
            "except in the rows that say otherwise",
            *notes,
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
