"""Test that a server survives malformed requests and that valid requests are not affected.

    python bench/abuse.py --out bench/results/abuse.json [--quick] [--requests 10000]

The server has a JPEG pipeline (DALI) and an ONNX model. Each kind of malformed request is sent many times over HTTP and
gRPC. The table has the responses by kind. At the same time other clients send valid requests over both protocols, some
of them in the same batches. Each of their results is compared; none may fail.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import onnx
import psutil
from nvidia import dali
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.errors import RequestError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.core import RETRY_PAUSES
from shrinkserve.serving.client.errors import UnavailableError
from shrinkserve.serving.client.operations import InferRequest, InferResult
from shrinkserve.serving.server.server import ServerOptions, TritonServer

SIZE = 32
Kind = Callable[[np.random.Generator], "tuple[str, bytes, dict[str, str]]"]
"""Function that makes a malformed HTTP request: path, body, headers."""


def write_models(root: Path) -> None:
    """Write two models: `jpeg` decodes images (DALI), `mean` returns the mean colour of pixels (ONNX Runtime)."""
    pipeline = dali.Pipeline(batch_size=8, num_threads=1, device_id=None)
    with pipeline:
        encoded = dali.fn.external_source(name="DALI_INPUT_0", ndim=1, dtype=dali.types.UINT8)
        pixels = dali.fn.decoders.image(encoded, device="cpu", output_type=dali.types.RGB)
        pipeline.set_outputs(dali.fn.resize(pixels, resize_x=SIZE, resize_y=SIZE))
    (root / "jpeg/1").mkdir(parents=True)
    pipeline.serialize(filename=str(root / "jpeg/1/model.dali"))
    (root / "jpeg/config.pbtxt").write_text(
        'backend: "dali" max_batch_size: 8 dynamic_batching { } '
        'input [{ name: "DALI_INPUT_0" data_type: TYPE_UINT8 dims: [-1] allow_ragged_batch: true }] '
        f'output [{{ name: "images" data_type: TYPE_UINT8 dims: [{SIZE}, {SIZE}, 3] }}]'
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        ],
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    (root / "mean/1").mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), root / "mean/1/model.onnx"
    )
    (root / "mean/config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 8 dynamic_batching { } '
        f'input [{{ name: "images" data_type: TYPE_UINT8 dims: [{SIZE}, {SIZE}, 3] }}] '
        'output [{ name: "mean" data_type: TYPE_FP32 dims: [3] }]'
    )


def picture(rng: np.random.Generator) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((64, 48)).save(buffer, "JPEG")
    return buffer.getvalue()


def binary(model: str, name: str, datatype: str, shape: list[int], data: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Return a request of Triton's HTTP protocol with a binary tensor."""
    parameters = {"binary_data_size": len(data)}
    head = json.dumps(
        {
            "inputs": [{"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return f"/v2/models/{model}/infer", head + data, {"Inference-Header-Content-Length": str(len(head))}


def fuzzed(rng: np.random.Generator) -> bytes:
    """Return a JPEG with a few bytes changed, removed or repeated."""
    body = bytearray(picture(rng))
    for place in rng.integers(2, len(body), rng.integers(1, 30)):
        body[place] = rng.integers(0, 256)
    return bytes(body[: rng.integers(20, len(body) + 1)])


def image_request(data: bytes) -> tuple[str, bytes, dict[str, str]]:
    return binary("jpeg", "DALI_INPUT_0", "UINT8", [1, len(data)], data)


PIXELS = bytes(SIZE * SIZE * 3)
SHAPE = [1, SIZE, SIZE, 3]
KINDS: dict[str, Kind] = {
    "fuzzed JPEG": lambda rng: image_request(fuzzed(rng)),
    "random bytes as image": lambda rng: image_request(rng.bytes(int(rng.integers(1, 4000)))),
    "empty image": lambda _: image_request(b""),
    "wrong shape": lambda rng: binary("mean", "images", "UINT8", [1, int(rng.integers(SIZE + 1, 99)), SIZE, 3], PIXELS),
    "wrong type": lambda _: binary("mean", "images", "FP32", SHAPE, PIXELS * 4),
    "wrong name": lambda _: binary("mean", "picture", "UINT8", SHAPE, PIXELS),
    "size that does not fit the shape": lambda rng: binary("mean", "images", "UINT8", SHAPE, rng.bytes(100)),
    "batch beyond the limit": lambda _: binary("mean", "images", "UINT8", [9, *SHAPE[1:]], PIXELS * 9),
    "negative dimension": lambda _: binary("mean", "images", "UINT8", [-1, *SHAPE[1:]], PIXELS),
    "huge dimension": lambda _: binary("mean", "images", "UINT8", [2**62, *SHAPE[1:]], PIXELS),
    "unknown model": lambda _: binary("other", "images", "UINT8", SHAPE, PIXELS),
    "random body": lambda rng: ("/v2/models/mean/infer", rng.bytes(int(rng.integers(0, 3000))), {}),
    "truncated JSON": lambda _: ("/v2/models/mean/infer", b'{"inputs": [{"name": "images", "sh', {}),
    "header length beyond the body": lambda _: (
        "/v2/models/mean/infer",
        b"{}",
        {"Inference-Header-Content-Length": "999999"},
    ),
    "header length that is not a number": lambda _: (
        "/v2/models/mean/infer",
        b"{}",
        {"Inference-Header-Content-Length": "many"},
    ),
    "path with ..": lambda _: ("/v2/models/..%2F..%2Fetc%2Fpasswd/infer", b"{}", {}),
    "model control without the token": lambda _: ("/v2/repository/models/mean/unload", b"{}", {}),
}


def message(
    model: str, name: str, datatype: str, shape: list[int], data: bytes, copies: int = 1
) -> service_pb2.ModelInferRequest:
    """Return a gRPC request with one declared tensor and `copies` raw ones."""
    given = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    return service_pb2.ModelInferRequest(model_name=model, inputs=[given], raw_input_contents=[data] * copies)


GRPC_KINDS: dict[str, Callable[[np.random.Generator], service_pb2.ModelInferRequest]] = {
    "fuzzed JPEG": lambda rng: message("jpeg", "DALI_INPUT_0", "UINT8", [1, len(d := fuzzed(rng))], d),
    "random bytes as image": lambda rng: message("jpeg", "DALI_INPUT_0", "UINT8", [1, 900], rng.bytes(900)),
    "wrong shape": lambda rng: message("mean", "images", "UINT8", [1, SIZE, int(rng.integers(1, 31)), 3], PIXELS),
    "wrong type": lambda _: message("mean", "images", "FP32", SHAPE, PIXELS * 4),
    "unknown type": lambda _: message("mean", "images", "UINT9", SHAPE, PIXELS),
    "wrong name": lambda _: message("mean", "picture", "UINT8", SHAPE, PIXELS),
    "size that does not fit the shape": lambda rng: message("mean", "images", "UINT8", SHAPE, rng.bytes(100)),
    "batch beyond the limit": lambda _: message("mean", "images", "UINT8", [9, *SHAPE[1:]], PIXELS * 9),
    "negative dimension": lambda _: message("mean", "images", "UINT8", [-1, *SHAPE[1:]], PIXELS),
    "no tensor": lambda _: service_pb2.ModelInferRequest(model_name="mean"),
    "more contents than tensors": lambda _: message("mean", "images", "UINT8", SHAPE, PIXELS, copies=3),
    "unknown model": lambda _: message("other", "images", "UINT8", SHAPE, PIXELS),
    "unknown output": lambda _: service_pb2.ModelInferRequest(
        model_name="mean",
        inputs=message("mean", "images", "UINT8", SHAPE, PIXELS).inputs,
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="median")],
        raw_input_contents=[PIXELS],
    ),
}


def call(stub: Any, kind: Callable[[np.random.Generator], Any], rng: np.random.Generator) -> str:
    """Send one malformed gRPC request and return the kind of response."""
    try:
        stub.ModelInfer(kind(rng), timeout=30)
    except grpc.RpcError as exc:
        return str(exc.code().name)
    return "OK"


def noise(address: tuple[str, int], rng: np.random.Generator) -> str:
    """Send bytes that are not HTTP/2 to the gRPC port."""
    with socket.create_connection(address, timeout=30) as raw, suppress(OSError):
        raw.sendall(rng.bytes(2000))
        while raw.recv(4096):
            pass
    return "connection closed"


def send(address: tuple[str, int], kind: Kind, rng: np.random.Generator) -> str:
    """Send one malformed HTTP request and return the kind of response."""
    path, body, headers = kind(rng)
    connection = HTTPConnection(*address, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        reply.read()
        return str(reply.status)
    except (OSError, HTTPException) as exc:
        return type(exc).__name__
    finally:
        connection.close()


def send_truncated(address: tuple[str, int]) -> str:
    """Send less than the announced body and close the connection."""
    with socket.create_connection(address, timeout=30) as raw:
        raw.sendall(b"POST /v2/models/mean/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{")
    return "closed by us"


def listed(counts: Counter[str]) -> str:
    """Return counts for a note, e.g. `` (late: 2)``; empty if there are none."""
    return f" ({', '.join(f'{what}: {n}' for what, n in counts.items())})" if counts else ""


class Valid(threading.Thread):
    """Client that sends valid requests without a pause and compares every result."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._url, self._rng = url, np.random.default_rng(seed)
        self.stop = threading.Event()
        self.right, self.errors, self.again = 0, Counter[str](), Counter[str]()

    def run(self) -> None:
        """Send requests until `stop` is set."""
        encoded = np.frombuffer(picture(self._rng), np.uint8)[None]
        with Client(self._url) as client:
            picked = InferRequest("jpeg", encoded, {"images": 0}, tensor="DALI_INPUT_0")
            first = client.send(picked).tensors["images"]
            while not self.stop.is_set():
                images = self._rng.integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
                try:
                    mean = self._ask(client, InferRequest("mean", images, {"mean": 0})).tensors["mean"]
                    again = self._ask(client, picked).tensors["images"]
                except RequestError as exc:
                    self.errors[str(exc)[:300]] += 1
                    continue
                good = np.allclose(mean, images.mean(axis=(1, 2)), atol=1e-3) and np.array_equal(first, again)
                self.right += 2 * good
                self.errors["wrong answer"] += not good

    def _ask(self, client: Client, question: InferRequest) -> InferResult:
        """Send a request up to three times if the server did not process it, as `Client.classify` does."""
        for pause in RETRY_PAUSES:
            try:
                return client.send(question)
            except UnavailableError as exc:
                self.again[str(exc).partition(": ")[2].partition(" (")[0]] += 1
                time.sleep(pause)
        return client.send(question)


def memory(pid: int) -> float:
    """Return the resident memory of the server and its stub processes in MiB."""
    return sum(p.memory_info().rss for p in psutil.Process(pid).children(recursive=True)) / 2**20


def abuse(http: tuple[str, int], rpc: tuple[str, int], count: int, slow: int = 20) -> dict[str, Counter[str]]:
    """Send `count` malformed requests of all kinds in turn, while slow senders keep half a request open."""
    held = [socket.create_connection(http, timeout=60) for _ in range(slow)]
    for raw in held:
        raw.sendall(b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: 999\r\n")
    rng = np.random.default_rng(0)
    with grpc.insecure_channel(f"{rpc[0]}:{rpc[1]}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ways: dict[str, Callable[[], str]] = {
            **{f"HTTP: {name}": partial(send, http, kind, rng) for name, kind in KINDS.items()},
            "HTTP: truncated body": partial(send_truncated, http),
            **{f"gRPC: {name}": partial(call, stub, kind, rng) for name, kind in GRPC_KINDS.items()},
            "gRPC: bytes that are not HTTP/2": partial(noise, rpc, rng),
        }
        responses = {name: Counter[str]() for name in ways}
        for number in range(count):
            name = list(ways)[number % len(ways)]
            responses[name][ways[name]()] += 1
    for raw in held:
        raw.close()
    responses["HTTP: slow sender, half a request kept open"] = Counter({"closed by us": slow})
    return responses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="300 requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as folder:
        write_models(Path(folder) / "models")
        chosen = ServerOptions(token="a-token-of-this-test", log_file=Path(folder) / "triton.log")
        with TritonServer(Path(folder) / "models", chosen) as server:
            valid = [Valid(url, seed) for seed, url in enumerate((server.http_url, server.grpc_url) * 2)]
            for thread in valid:
                thread.start()
            before, start = memory(server.pid), time.monotonic()
            ports = (urlsplit(server.http_url).port, urlsplit(server.grpc_url).port)
            http, rpc = (("127.0.0.1", int(port or 0)) for port in ports)
            responses = abuse(http, rpc, 300 if options.quick else options.requests)
            took = time.monotonic() - start
            for thread in valid:
                thread.stop.set()
            for thread in valid:
                thread.join()
            after = memory(server.pid)
    right = sum(thread.right for thread in valid)
    failed = sum((thread.errors for thread in valid), Counter[str]())
    failed = +failed  # removes zero counts
    again = sum((thread.again for thread in valid), Counter[str]())
    about = plain(environment())
    record = {
        "title": "Malformed requests to the server from PyPI, with valid requests at the same time",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": [
            {"kind": kind, "sent": c.total(), "responses": ", ".join(f"{what}: {n}" for what, n in c.items())}
            for kind, c in responses.items()
        ],
        "seconds": took,
        "valid_requests_right": right,
        "valid_requests_failed": dict(failed),
        "valid_requests_asked_again": dict(again),
        "memory_mib": {"before": before, "after": after},
        "notes": [
            f"valid requests by two clients over HTTP and two over gRPC: {right} correct, {failed.total()} "
            f"failed or wrong{listed(failed)}; {again.total()} sent again{listed(again)}",
            "Triton 2.51 reads the number of rows as 32 bits. A request with 2^62 rows passes its check, and its whole "
            "batch is refused; our client then sends its requests again",
            f"memory of the server's processes: {before:.0f} MiB before, {after:.0f} MiB after",
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    for row in record["rows"]:
        print(f"{row['kind']:50} {row['sent']:6} {row['responses']}")
    print("\n".join(record["notes"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
