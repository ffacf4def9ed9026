"""Malformed requests against a served model, with valid traffic beside them: the server lives and stays right.

    python bench/abuse.py --out bench/results/abuse.json [--requests 10000] [--soak SECONDS]

A real server with a JPEG pipeline (DALI) and an ONNX model. Every kind of abuse is sent many times; the table says
how each was answered. Beside it, valid requests go on: each answer is compared, and none may fail. `--soak` then
holds valid load for that long and reports the memory of the server's processes over time.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import tritonclient.http as triton
from nvidia import dali
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.utils import InferenceServerException

from shrinkserve.artifact import write_atomic
from shrinkserve.benchmark.environment import environment
from shrinkserve.serving.server import ServerOptions, TritonServer

SIZE = 32
Kind = Callable[[np.random.Generator], "tuple[str, bytes, dict[str, str]]"]
"""Makes one malformed HTTP request: path, body, headers."""


def write_models(root: Path) -> None:
    """`jpeg`: image bytes to pixels (DALI); `mean`: pixels to their mean colour (ONNX Runtime)."""
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
    """A request of Triton's HTTP protocol with its tensor in binary."""
    parameters = {"binary_data_size": len(data)}
    head = json.dumps(
        {
            "inputs": [{"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return f"/v2/models/{model}/infer", head + data, {"Inference-Header-Content-Length": str(len(head))}


def fuzzed(rng: np.random.Generator) -> bytes:
    """A JPEG with a few bytes changed, removed or repeated."""
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
    "wrong shape": lambda rng: binary("mean", "images", "UINT8", [1, int(rng.integers(1, 99)), SIZE, 3], PIXELS),
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
    "header length that is no number": lambda _: (
        "/v2/models/mean/infer",
        b"{}",
        {"Inference-Header-Content-Length": "many"},
    ),
    "path that climbs out": lambda _: ("/v2/models/..%2F..%2Fetc%2Fpasswd/infer", b"{}", {}),
    "control of models": lambda _: ("/v2/repository/models/mean/unload", b"{}", {}),
}


def send(address: tuple[str, int], kind: Kind, rng: np.random.Generator) -> str:
    """Send one malformed request; how it was answered."""
    path, body, headers = kind(rng)
    connection = HTTPConnection(*address, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        reply.read()
        return str(reply.status)
    except (OSError, HTTPException) as fault:
        return type(fault).__name__
    finally:
        connection.close()


def send_truncated(address: tuple[str, int]) -> str:
    """Promise more body than is sent, then hang up."""
    with socket.create_connection(address, timeout=30) as raw:
        raw.sendall(b"POST /v2/models/mean/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{")
    return "closed by us"


class Valid(threading.Thread):
    """Valid requests without a pause; every answer is compared."""

    def __init__(self, address: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._address, self._rng = address, np.random.default_rng(seed)
        self.stop = threading.Event()
        self.right, self.faults = 0, Counter[str]()

    def run(self) -> None:
        """Until `stop` is set."""
        client = triton.InferenceServerClient(self._address, network_timeout=60, connection_timeout=60)
        encoded = np.frombuffer(picture(self._rng), np.uint8)
        first = self._ask(client, "jpeg", "DALI_INPUT_0", encoded[None], "images")
        while not self.stop.is_set():
            images = self._rng.integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
            try:
                mean = self._ask(client, "mean", "images", images, "mean")
                again = self._ask(client, "jpeg", "DALI_INPUT_0", encoded[None], "images")
            except (InferenceServerException, OSError) as fault:
                self.faults[str(fault)[:200]] += 1
                continue
            good = np.allclose(mean, images.mean(axis=(1, 2)), atol=1e-3) and np.array_equal(first, again)
            self.right += good
            self.faults["wrong answer"] += not good
        client.close()

    def _ask(self, client: Any, model: str, name: str, array: np.ndarray, output: str) -> np.ndarray:
        given = triton.InferInput(name, array.shape, "UINT8")
        given.set_data_from_numpy(array)
        answer: np.ndarray = client.infer(model, [given]).as_numpy(output)
        return answer


def memory(pid: int) -> float:
    """Resident memory of the server and its stubs, in MiB."""
    return sum(p.memory_info().rss for p in psutil.Process(pid).children(recursive=True)) / 2**20


def abuse(address: tuple[str, int], count: int, slow: int = 20) -> dict[str, Counter[str]]:
    """Send `count` malformed requests, kinds in turn, while `slow` senders keep half a request open."""
    held = [socket.create_connection(address, timeout=60) for _ in range(slow)]
    for raw in held:
        raw.sendall(b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: 999\r\n")
    rng = np.random.default_rng(0)
    answers: dict[str, Counter[str]] = {name: Counter() for name in (*KINDS, "truncated body")}
    for number in range(count):
        name = list(answers)[number % len(answers)]
        answers[name][send(address, KINDS[name], rng) if name in KINDS else send_truncated(address)] += 1
    for raw in held:
        raw.close()
    answers["slow sender"] = Counter({"held open, then closed by us": slow})
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/abuse.json")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--soak", type=float, default=600, help="seconds of valid load afterwards")
    parser.add_argument("--quick", action="store_true", help="600 requests, 10 seconds")
    options = parser.parse_args()
    count, seconds = (600, 10.0) if options.quick else (options.requests, options.soak)
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder) / "models")
        chosen = ServerOptions(token="nobody-knows-this", log_file=Path(folder) / "triton.log")
        with TritonServer(Path(folder) / "models", chosen) as server:
            host, port = server.http_url.removeprefix("http://").split(":")
            beside = [Valid(f"{host}:{port}", seed) for seed in (1, 2)]
            for thread in beside:
                thread.start()
            before = memory(server.pid)
            start = time.monotonic()
            answers = abuse((host, int(port)), count)
            took = time.monotonic() - start
            grown = [(0.0, memory(server.pid))]
            while (passed := time.monotonic() - start - took) < seconds:
                time.sleep(min(5.0, seconds - passed))
                grown.append((time.monotonic() - start - took, memory(server.pid)))
            for thread in beside:
                thread.stop.set()
            for thread in beside:
                thread.join()
    record = {
        "title": "Malformed requests against the pip server",
        "date": environment()["date"],
        "command": environment()["command"],
        "environment": environment(),
        "rows": [{"kind": kind, "sent": sum(c.values()), "answers": dict(c)} for kind, c in answers.items()],
        "seconds": took,
        "valid_requests_right": sum(2 * thread.right for thread in beside),
        "valid_requests_failed": {k: v for thread in beside for k, v in thread.faults.items() if v},
        "memory_mib": {"before": before, "soak": grown},
        "notes": [
            "valid traffic: two clients without a pause, during the abuse and the soak",
            "Triton 2.51 takes the number of rows as 32 bits: a request that claims 2^32 of them passes its check, and "
            "the batch that it joins is refused as a whole, valid requests with it; no backend is asked. This is the "
            "only way in which a valid request failed",
        ],
    }
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    for row in record["rows"]:
        print(f"{row['kind']:34} {row['sent']:6} {row['answers']}")
    print(f"valid requests: {record['valid_requests_right']} right, failed {record['valid_requests_failed']}")
    others = [reason for reason in record["valid_requests_failed"] if "max allowed is 8" not in reason]
    print(f"memory: {before:.0f} MiB before, {grown[0][1]:.0f} after the abuse, {grown[-1][1]:.0f} after {seconds:g} s")
    if others:
        raise SystemExit(f"valid requests failed: {others}")


if __name__ == "__main__":
    main()
