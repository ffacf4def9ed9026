"""A real tritonserver as one object: started, watched, logged and ended without a trace.

Whichever way the process that started it ends, no server stays behind: a normal end stops it, a killed parent is
noticed by the kernel (`guard`), and the Python backend's stubs end by themselves when their server is gone.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import IO

import platformdirs

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving import guard, launch
from shrinkserve.serving.logs import explain, rotating_log
from shrinkserve.serving.repository import Repository

LISTENS = "Started HTTPService at"
"""Triton's line when HTTP is up: before it, whoever answers at the port is another server."""
DRAINED = "All models are stopped"
"""Triton's line when no request is in flight any more and none is taken."""


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    Attributes:
        models: the models to load; all that the repository holds when empty.
        host: the address to bind. The pip server takes only a loopback address unless `insecure`.
        http_port: port of HTTP; 0 lets a free one be chosen, also in the next two.
        grpc_port: port of gRPC.
        metrics_port: port of the Prometheus metrics.
        log_file: where the server's log goes; by default a file named by the port in the user's log folder.
        insecure: let the pip server bind any address.
        arguments: further arguments of tritonserver.
        ready_seconds: how long loading the models may take.
    """

    models: Sequence[str] = ()
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    log_file: Path | None = None
    insecure: bool = False
    arguments: Sequence[str] = ()
    ready_seconds: float = 300


class TritonServer:
    """A tritonserver on a model repository: a context manager that is ready inside the block.

    Args:
        repository: the model repository.
        options: what to load and where to listen; by default all models, on ports that are free.

    Attributes:
        models: the names of the models that it loads.

    Raises:
        ArtifactError: no such repository.
        ConfigError: an unknown model, or an address that is not allowed.
        ServerError: no tritonserver, an empty repository, a port that is taken, a model that fails to load.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self.repository = repository
        self.options = options or ServerOptions()
        self.models = _chosen(repository, self.options.models)
        self._ports: dict[str, int] = {}
        self._resources = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self._tail: deque[str] = deque(maxlen=400)
        self._listens = threading.Event()
        self._drained = threading.Event()

    @property
    def http_url(self) -> str:
        return self._url("http", "http")

    @property
    def grpc_url(self) -> str:
        return self._url("grpc", "grpc")

    @property
    def metrics_url(self) -> str:
        return f"{self._url('http', 'metrics')}/metrics"

    def _url(self, scheme: str, service: str) -> str:
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{scheme}://{host}:{self._ports[service]}"

    @property
    def log_file(self) -> Path:
        """Where the log is written; older parts beside it end in .1, .2, ..."""
        folder = platformdirs.user_log_path("shrinkserve")
        return self.options.log_file or folder / f"tritonserver-{self._ports['http']}.log"

    @property
    def pid(self) -> int:
        """The server's process id, while it runs."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    def __enter__(self) -> TritonServer:
        try:
            self._start()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Return when the server ends, which it does not do by itself.

        Raises:
            ServerError: it ended although nobody stopped it.
        """
        if self._process is not None:
            self._process.wait()
            raise self._ended()

    def _start(self) -> None:
        options = self.options
        wanted = {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
        self._ports = _bindable(options.host, wanted)
        temporary = tempfile.TemporaryDirectory(prefix="shrinkserve-", ignore_cleanup_errors=True)
        folder = self._resources.enter_context(temporary)
        prepared = launch.prepare(self.repository, Path(folder))
        if prepared.from_pip and not options.insecure and not _is_loopback(options.host):
            raise ConfigError(
                f"--host {options.host}: the tritonserver from PyPI is an older one with known advisories",
                expected="a loopback address such as 127.0.0.1",
                do="publish NVIDIA's container instead, or add --insecure on a network that you trust",
            )
        arguments = [str(prepared.executable), *self._arguments(), *prepared.arguments, *options.arguments]
        log = self._resources.enter_context(rotating_log(self.log_file))
        self._process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(os.getpid()), folder, *arguments],
            env=prepared.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C at the terminal is for us: we stop the server in order
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._forward, args=(self._process.stdout, log.info), daemon=True)
        self._reader.start()
        self._resources.callback(self._process.stdout.close)
        self._resources.callback(self._reader.join)

    def _arguments(self) -> list[str]:
        ports, host = self._ports, self.options.host
        return [
            f"--model-repository={self.repository.resolve()}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.models),
            *(f"--http-address={host}", f"--http-port={ports['http']}"),
            *(f"--grpc-address={host}", f"--grpc-port={ports['grpc']}"),
            *(f"--metrics-address={host}", f"--metrics-port={ports['metrics']}"),
            "--exit-timeout-secs=4",
        ]

    def _forward(self, stream: IO[str], write: Callable[[str], None]) -> None:
        for line in stream:
            self._tail.append(line)
            write(line.rstrip("\n"))
            if LISTENS in line:
                self._listens.set()
            if DRAINED in line:
                self._drained.set()
        self._drained.set()

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.options.ready_seconds
        while not (self._listens.is_set() and self._answers()):
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver is not ready after {self.options.ready_seconds:g} s", do=self._look())
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.options.host, self._ports["http"], timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ended(self) -> ServerError:
        """Why the server ended, in Triton's own words."""
        assert self._process is not None
        self._reader.join()  # until its last line
        reason = explain(self._tail)
        if reason:
            return ServerError(reason, do=self._look())
        code = self._process.returncode
        how = signal.Signals(code - 128).name if code > 128 else f"exit code {code}"
        return ServerError(f"tritonserver ended by itself ({how})", do=self._look())

    def _look(self) -> str:
        return f"its log is {self.log_file}"

    def stop(self) -> None:
        """End the server: let requests in flight finish, then leave neither process nor file of it."""
        process, self._process = self._process, None
        try:
            if process is not None:
                _end(process, self._drained)
        finally:
            self._resources.close()


def _end(process: subprocess.Popen[str], drained: threading.Event) -> None:
    try:
        process.terminate()
        while process.poll() is None and not drained.wait(timeout=0.05):
            pass
    finally:
        # All that the server still does is to unload its models, with a pause of a second a step; or a second
        # Ctrl-C says that it is not to be waited for.
        process.send_signal(guard.NOW)
        process.wait()


def _chosen(repository: Path, names: Sequence[str]) -> list[str]:
    """The models to load: `names`, or all that the repository holds."""
    present = Repository(repository).models()
    if not present:
        raise ServerError(f"{repository}: no model in this repository", do="make one with `shrinkserve export`")
    unknown = sorted(set(names) - set(present))
    if unknown:
        raise ConfigError(f"{repository}: no such model", expected=", ".join(present), found=", ".join(unknown))
    return list(dict.fromkeys(names)) or present


def _bindable(host: str, ports: Mapping[str, int]) -> dict[str, int]:
    """The ports with a free one for each 0, all of them bound for a moment to see that they can be had."""
    chosen = {}
    with ExitStack() as held:
        for service, port in sorted(ports.items(), key=lambda item: item[1] == 0):
            try:
                address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                listener = held.enter_context(socket.socket(address[0], socket.SOCK_STREAM))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address[4])
            except OSError as fault:
                raise ServerError(
                    f"{host}:{port} cannot be bound for {service} ({fault.strerror})",
                    do=f"stop what holds it, or give another --{service}-port; 0 lets a free one be chosen",
                ) from fault
            chosen[service] = int(listener.getsockname()[1])
    return chosen


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
