"""Peers of `bench/serving.py`: install each into a separate environment, start it, send requests, and end it."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import tritonclient.grpc as triton

from shrinkserve.benchmark.targets.target import Pixels, Predict, Target

FOLDER = platformdirs.user_cache_path("shrinkserve") / "peers"
"""Folder of the environments; may be removed at any time."""
PROGRAMS = Path(__file__).parent / "peers"
READY_SECONDS = 90
ANSWER_SECONDS = 60
PORTS = 3
"""Number of consecutive ports that a peer may use."""


@dataclass(frozen=True)
class Peer:
    """Peer: its name, its program in `bench/peers`, and its packages."""

    name: str
    program: str
    packages: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Python interpreter of its environment."""
        return FOLDER / self.name.lower() / "bin/python"

    @property
    def installed(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == "\n".join(self.packages)

    @property
    def _stamp(self) -> Path:
        return FOLDER / self.name.lower() / "packages.txt"

    def install(self) -> None:
        """Create the environment.

        Raises:
            subprocess.CalledProcessError: pip cannot install the packages.
        """
        place = self.python.parents[1]
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--no-input", *self.packages]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._stamp.write_text("\n".join(self.packages))


PEERS = (
    # Does not start with a newer uvloop.
    Peer("MLServer", "mlserver_app.py", ("mlserver==1.7.1", "uvloop==0.21.0", "onnxruntime==1.32.0")),
    Peer("LitServe", "litserve_app.py", ("litserve==0.2.19", "onnxruntime==1.32.0")),
    # Pins numpy below 2, hence an older ONNX Runtime.
    Peer("PyTriton", "pytriton_app.py", ("nvidia-pytriton==0.7.0", "onnxruntime==1.22.1")),
)


def grpc_target(
    name: str, address: str, model: str, precision: str, statistics: Callable[[], dict[str, Any]] | None = None
) -> Target:
    """Return the target of a server with Triton's gRPC protocol; each worker has a connection."""

    @contextmanager
    def connect() -> Iterator[Predict]:
        with triton.InferenceServerClient(address) as client:
            wanted = [triton.InferRequestedOutput("logits")]

            def answer(images: Pixels) -> Any:
                given = triton.InferInput("images", images.shape, "UINT8")
                given.set_data_from_numpy(images)
                return client.infer(model, [given], outputs=wanted, client_timeout=ANSWER_SECONDS).as_numpy("logits")

            yield answer

    return Target(name, "server", precision, f"grpc://{address}/{model}", connect, statistics)


def litserve_target(name: str, port: int) -> Target:
    """Return the target of LitServe, which uses HTTP; each worker has a connection."""

    @contextmanager
    def connect() -> Iterator[Predict]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)) as connection:

            def answer(images: Pixels) -> Any:
                body = json.dumps({"images": base64.b64encode(images.tobytes()).decode(), "shape": images.shape})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = json.loads(connection.getresponse().read())
                return np.frombuffer(base64.b64decode(reply["logits"]), np.float32).reshape(reply["shape"])

            yield answer

    return Target(name, "server", "float32", f"http://127.0.0.1:{port}", connect)


def free_ports() -> int:
    """Return the first of `PORTS` consecutive free ports."""
    while True:
        with ExitStack() as held, suppress(OSError, OverflowError):
            first = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + PORTS):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return int(first)


class SilentError(Exception):
    """Error of a peer that does not respond."""


@contextmanager
def running(peer: Peer, model: Path, size: int, instances: int, threads: int) -> Iterator[Target]:
    """Start a peer with the ONNX file `model`: images uint8 [N, size, size, 3] to logits [N, classes].

    Raises:
        SilentError: it does not respond; the message has the end of its log.
    """
    port = free_ports()
    program = PROGRAMS / peer.program
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MODEL": str(model),
        "THREADS": str(threads),
        "WORKERS": str(instances),
        "PORT": str(port),
        "PYTHONPATH": str(program.parent),
        "PATH": f"{peer.python.parent}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),  # PyTriton's stub needs this Python's library
    }
    left = tempfile.TemporaryDirectory(prefix="shrinkserve-bench-", ignore_cleanup_errors=True)
    with tempfile.TemporaryFile("w+") as log, left as scratch:
        environment["TMPDIR"] = scratch  # some leave files
        process = subprocess.Popen(
            [str(peer.python), str(program)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            address = f"127.0.0.1:{port}"
            target = (
                litserve_target(peer.name, port)
                if peer.name == "LitServe"
                else grpc_target(peer.name, address, "net", "float32")
            )
            _await(target, size, process, log)
            yield target
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # and its workers
            process.wait()


def _await(target: Target, size: int, process: subprocess.Popen[Any], log: Any) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with target.open() as answer:
                answer(np.zeros((1, size, size, 3), np.uint8))
            return
        except Exception as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SilentError(f"it does not answer: {exc}; {log.read()[-600:]}") from exc
            time.sleep(0.5)
