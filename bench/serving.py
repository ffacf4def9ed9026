"""The pip server beside its peers, on one ONNX file and in one interleaved run: latency and throughput.

    python bench/serving.py --out bench/results/serving.json [--quick] [--peers FOLDER]

Every server gets the same uint8 images one by one over its own fastest protocol, from the same load generator on
the same machine. Two deployments each: one instance with all threads (for latency), and one single-threaded
instance a core (for throughput). Peers are installed into virtual environments in FOLDER, and skipped with a note
when that fails.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tritonclient.grpc as triton

from shrinkserve.artifact import write_atomic
from shrinkserve.benchmark.environment import environment
from shrinkserve.benchmark.load import Load, Timing, closed_loop
from shrinkserve.benchmark.target import Answer, Pixels, Target
from shrinkserve.serving.server import ServerOptions, TritonServer

CORES = len(os.sched_getaffinity(0))
SIZE, CLASSES = 224, 1001
PEERS = {
    "MLServer": ("mlserver_app.py", ["mlserver==1.7.1", "onnxruntime==1.32.0"]),
    "LitServe": ("litserve_app.py", ["litserve==0.2.19", "onnxruntime==1.32.0"]),
    "PyTriton": ("pytriton_app.py", ["nvidia-pytriton==0.7.0", "onnxruntime==1.22.1"]),
}
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Deployment:
    """One row's server."""

    name: str
    instances: int
    threads: int
    target: Target


def make_model(folder: Path) -> Path:
    """ShrinkCNN-A with random weights, exported as every run is."""
    from safetensors.torch import save_file

    from shrinkserve.arch import load
    from shrinkserve.arch.module import compile_spec
    from shrinkserve.arch.spec import to_dict
    from shrinkserve.artifact import Card, sha256_file
    from shrinkserve.export.exporter import export_onnx
    from shrinkserve.preprocess import Preprocess
    from shrinkserve.runtimes.checkpoint import weights

    run = folder / "run"
    run.mkdir()
    spec = load("shrinkcnn-a", classes=CLASSES, input_size=SIZE)
    save_file(weights(compile_spec(spec)), run / "ema.safetensors")
    Card(
        "checkpoint",
        "net",
        files={"ema.safetensors": sha256_file(run / "ema.safetensors")},
        preprocess=Preprocess(size=SIZE).to_dict(),
        classes=[str(number) for number in range(CLASSES)],
        spec=to_dict(spec),
    ).write(run)
    exported = folder / "exported"
    exported.mkdir()
    export_onnx(run, exported, max_batch=8)
    return exported / "model.onnx"


def write_models(root: Path, model: Path) -> None:
    """The repository: the file under each deployment's config."""
    variants = {"1": (1, CORES), "n": (CORES, 1)}
    tensors = (
        f'max_batch_size: 8 input [{{ name: "images" data_type: TYPE_UINT8 dims: [{SIZE}, {SIZE}, 3] }}] '
        f'output [{{ name: "logits" data_type: TYPE_FP32 dims: [{CLASSES}] }}] dynamic_batching {{ }} '
        'default_model_filename: "model.onnx"'
    )
    spins = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
    for label, backend, key, more in (
        ("onnxruntime", "onnxruntime", "intra_op_thread_count", {}),
        ("spinning", "onnxruntime", "intra_op_thread_count", spins),
        ("openvino", "openvino", "INFERENCE_NUM_THREADS", {}),
        ("bf16", "openvino", "INFERENCE_NUM_THREADS", {"HINT_BF16": "YES"}),
    ):
        for name, (instances, threads) in variants.items():
            folder = root / f"{label}_{name}"
            (folder / "1").mkdir(parents=True)
            os.link(model, folder / "1/model.onnx")
            parameters = {key: str(threads), **more}
            config = f'backend: "{backend}" {tensors} instance_group [{{ kind: KIND_CPU count: {instances} }}]'
            for parameter, value in parameters.items():
                config += f' parameters {{ key: "{parameter}" value: {{ string_value: "{value}" }} }}'
            (folder / "config.pbtxt").write_text(config)


def session_target(model: Path, threads: int, *, spins: bool) -> Target:
    """The bare session, what no server can beat at batch 1. ONNX Runtime's threads spin by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    @contextmanager
    def connect() -> Iterator[Answer]:
        yield lambda images: session.run(["logits"], {"images": images})[0]

    return Target("session spins" if spins else "session", "onnx", "float32", model.name, connect)


def grpc_target(name: str, address: str, model: str, precision: str = "float32") -> Target:
    """A server that speaks Triton's protocol."""

    @contextmanager
    def connect() -> Iterator[Answer]:
        with triton.InferenceServerClient(address) as client:
            wanted = [triton.InferRequestedOutput("logits")]

            def answer(images: Pixels) -> Any:
                given = triton.InferInput("images", images.shape, "UINT8")
                given.set_data_from_numpy(images)
                return client.infer(model, [given], outputs=wanted).as_numpy("logits")

            yield answer

    return Target(name, "server", precision, f"grpc://{address}/{model}", connect)


def litserve_target(name: str, port: int) -> Target:
    @contextmanager
    def connect() -> Iterator[Answer]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:

            def answer(images: Pixels) -> Any:
                body = json.dumps({"images": base64.b64encode(images.tobytes()).decode(), "shape": images.shape})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = json.loads(connection.getresponse().read())
                return np.frombuffer(base64.b64decode(reply["logits"]), np.float32).reshape(reply["shape"])

            yield answer

    return Target(name, "server", "float32", f"http://127.0.0.1:{port}", connect)


def install(folder: Path, name: str, packages: list[str]) -> Path:
    """A virtual environment of a peer; its Python."""
    place = folder / name.lower()
    python = place / "bin/python"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True, capture_output=True)
        (place / "ready").touch()
    return python


@contextmanager
def peer(name: str, python: Path, model: Path, instances: int, threads: int) -> Iterator[Target]:
    """A running peer."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = int(holder.getsockname()[1])
    program = HERE / "peers" / PEERS[name][0]
    environment_ = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "MODEL": str(model),
        "THREADS": str(threads),
        "WORKERS": str(instances),
        "PORT": str(port),
        "SIZE": str(SIZE),
        "CLASSES": str(CLASSES),
        "PYTHONPATH": str(program.parent),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(python), str(program)], env=environment_, stdout=log, stderr=log, start_new_session=True
        )
        try:
            target = (
                litserve_target(name, port) if name == "LitServe" else grpc_target(name, f"127.0.0.1:{port}", "net")
            )
            _await(target, process, log)
            yield target
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # and its workers
            process.wait()


def _await(target: Target, process: subprocess.Popen[Any], log: Any) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with target.open() as answer:
                answer(np.zeros((1, SIZE, SIZE, 3), np.uint8))
            return
        except Exception as fault:
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"{target.name} does not answer: {fault}; {log.read()[-600:]}") from fault
            time.sleep(0.5)


def check(reference: Target, target: Target, images: list[Pixels]) -> float:
    """Worst difference of the logits to the session's, relative to their range; each server must be right."""
    with reference.open() as wanted, target.open() as answer:
        pairs = [(wanted(image), answer(image)) for image in images[:4]]
    return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in pairs)


def best_batch(target: Target, timing: Timing) -> dict[str, Any]:
    """The session's throughput at the batch size that suits it best."""
    rng = np.random.default_rng(1)
    found = {}
    for batch in (1, 2, 4, 8):
        images = rng.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
        found[batch] = closed_loop(target, [images], 1, timing).throughput
    return {"batch": max(found, key=lambda size: found[size]), "images_per_second": max(found.values()), "all": found}


def run(deployments: list[Deployment], images: list[Pixels], rounds: int, timing: Timing) -> list[dict[str, Any]]:
    """Measure all in turn, `rounds` times over; a row is the median of its rounds."""
    loads: dict[tuple[str, int, int], list[Load]] = {}
    for number in range(rounds):
        for deployment in deployments:
            for concurrency in (1, 8) if deployment.target.remote else (1,):
                load = closed_loop(deployment.target, images, concurrency, timing)
                loads.setdefault((deployment.name, deployment.instances, concurrency), []).append(load)
                print(
                    f"round {number + 1} {deployment.name} {deployment.instances}x{deployment.threads} "
                    f"concurrency {concurrency}: p50 {1e3 * load.latency.percentile(50):.2f} ms, "
                    f"{load.throughput:.1f} images/s",
                    flush=True,
                )
    threads = {(one.name, one.instances): one.threads for one in deployments}
    return [
        {
            "server": name,
            "instances": instances,
            "threads": threads[name, instances],
            "concurrency": concurrency,
            "p50_ms": 1e3 * statistics.median(load.latency.percentile(50) for load in found),
            "p99_ms": 1e3 * statistics.median(load.latency.percentile(99) for load in found),
            "images_per_second": statistics.median(load.throughput for load in found),
            "spread": [min(load.throughput for load in found), max(load.throughput for load in found)],
            "errors": sum(window.errors for load in found for window in load.windows),
        }
        for (name, instances, concurrency), found in loads.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results/serving.json")
    parser.add_argument("--model", type=Path, help="an ONNX file of this input and output; made when missing")
    parser.add_argument("--peers", type=Path, help="where peers are installed; none are measured without it")
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    rounds, timing = (1, Timing(0.5, 1, 2, 2)) if options.quick else (3, Timing(1, 2, 2, 3))
    images = list(np.random.default_rng(0).integers(0, 256, (16, 1, SIZE, SIZE, 3), dtype=np.uint8))
    notes: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = options.model or make_model(scratch)
        write_models(scratch / "models", model)
        session = session_target(model, CORES, spins=False)
        best = best_batch(session, timing)
        log = ServerOptions(log_file=scratch / "triton.log")
        server = stack.enter_context(TritonServer(scratch / "models", log))
        address = server.grpc_url.removeprefix("grpc://")
        spinning = session_target(model, CORES, spins=True)
        deployments = [Deployment(one.name, 1, CORES, one) for one in (session, spinning)]
        shapes = {"1": (1, CORES), "n": (CORES, 1)}
        for backend, label in (
            ("onnxruntime", "shrinkserve onnxruntime"),
            ("spinning", "shrinkserve onnxruntime spins"),
            ("openvino", "shrinkserve openvino"),
            ("bf16", "shrinkserve openvino bf16"),
        ):
            for key, (instances, threads) in shapes.items():
                precision = "bfloat16" if backend == "bf16" else "float32"
                target = grpc_target(label, address, f"{backend}_{key}", precision)
                deployments.append(Deployment(label, instances, threads, target))
        for name, (_, packages) in PEERS.items() if options.peers else ():
            try:
                python = install(options.peers, name, packages)
                for instances, threads in shapes.values():
                    target = stack.enter_context(peer(name, python, model, instances, threads))
                    deployments.append(Deployment(name, instances, threads, target))
            except (subprocess.CalledProcessError, RuntimeError) as fault:
                notes.append(f"{name} was not measured: {' '.join(str(fault).split())[:400]}")
                print(notes[-1])
        differences = {
            f"{one.name} {one.instances}x{one.threads}": check(session, one.target, images) for one in deployments[1:]
        }
        rows = run(deployments, images, rounds, timing)
    record = {
        "title": "Serving ShrinkCNN-A at 224: the pip server beside its peers",
        "date": environment()["date"],
        "command": environment()["command"],
        "environment": environment(),
        "rows": rows,
        "session_best_batch": best,
        "worst_relative_difference_of_logits": differences,
        "notes": [
            "closed loop, batch 1 a request, uint8 224x224x3; load generator on the same cores as the servers",
            "sessions do not spin while they wait, peers' neither, except in the rows that say so",
            *notes,
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    report(record)


def report(record: dict[str, Any]) -> None:
    """The table, and what the figures mean against the bare session."""
    for row in record["rows"]:
        shape = f"{row['instances']}x{row['threads']}"
        print(
            f"{row['server']:29} {shape:5} c{row['concurrency']} p50 {row['p50_ms']:7.2f} ms  "
            f"p99 {row['p99_ms']:7.2f} ms {row['images_per_second']:7.1f}/s"
        )

    def best(server: str, concurrency: int, key: str, choose: Callable[[list[float]], float]) -> float:
        rows = record["rows"]
        return choose([r[key] for r in rows if (r["server"], r["concurrency"]) == (server, concurrency)])

    for ours, bare in (("", "session"), (" spins", "session spins")):
        ratio = best(f"shrinkserve onnxruntime{ours}", 1, "p50_ms", min) / best(bare, 1, "p50_ms", min)
        print(f"p50 at concurrency 1{ours}: {ratio:.2f} x that of the {bare} (aim: at most 1.25)")
    throughput = best("shrinkserve onnxruntime", 8, "images_per_second", max)
    ratio = throughput / record["session_best_batch"]["images_per_second"]
    print(f"throughput at concurrency 8: {ratio:.2f} x the session's at its best batch (aim: at least 0.95)")


if __name__ == "__main__":
    main()
