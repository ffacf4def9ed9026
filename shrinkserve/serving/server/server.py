"""A real tritonserver as one object: started, watched, logged and ended without a trace.

Whichever way the process that started it ends, no server stays behind: a normal end stops it, a killed parent is
noticed by the kernel (`guard`), and the Python backend's stubs end by themselves when their server is gone.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import IO

import platformdirs

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving.names import RESTRICTED_KEY
from shrinkserve.serving.server import launch, supervisor
from shrinkserve.serving.server.loadable import select
from shrinkserve.serving.server.logs import explain, rotating_log

GUARDED = ("model-repository", "shared-memory", "trace", "logging")
"""The groups of Triton's APIs that a token guards."""
LISTENS = "Started Metrics Service at"
"""Triton's line when all its ports are up, metrics last: before it, whoever answers at a port is another server."""
DRAINED = "All models are stopped"
"""Triton's line when no request is in flight any more and none is taken."""


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with.

    Attributes:
        models: the models to load, each with all its parts (`family`) or one of these; all when empty.
        engine: the engine that runs each model that has one of that name (``configs/ENGINE.pbtxt``).
        host: the address to bind. The pip server takes only a loopback address unless `insecure`.
        http_port: port of HTTP; 0 lets a free one be chosen, also in the next two.
        grpc_port: port of gRPC.
        metrics_port: port of the Prometheus metrics.
        log_file: where the server's log goes; by default a file named by the port in the user's log folder.
        insecure: let the pip server bind any address.
        fixed: let nobody change what is loaded, with or without a token (``--model-control-mode=none``).
        token: what a client has to know to use the APIs that change a server or show its inside (`GUARDED`). None
            leaves them open. Triton takes it on its command line, where users of the same machine can read it.
        tls: certificate and key (PEM) of gRPC. Triton has no TLS for HTTP and metrics: those then stay on loopback.
        max_request: most bytes of a request over HTTP, where tritonserver can be told; the pip server cannot.
        arguments: further arguments of tritonserver; HTTP and metrics have to stay on.
        ready_seconds: how long loading the models may take.
    """

    models: Sequence[str] = ()
    engine: str | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    log_file: Path | None = None
    insecure: bool = False
    fixed: bool = False
    token: str | None = field(default=None, repr=False)
    tls: tuple[Path, Path] | None = None
    max_request: int = 64 << 20
    arguments: Sequence[str] = ()
    ready_seconds: float = 300

    def __post_init__(self) -> None:
        """Refuse what Triton would take for something else.

        Raises:
            ConfigError: names the option.
        """
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,}", self.token):
            raise ConfigError("--token", expected="8 or more letters, digits and . _ ~ -", found="something else")
        for file in self.tls or ():
            if not file.is_file():
                raise ConfigError(f"--tls: {file}: no such file", hint="give the PEM files of certificate and key")
        if self.tls:
            try:  # Triton would take what it cannot read for a port that is taken
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self.tls, password="")
            except (OSError, ValueError) as exc:
                names = " and ".join(map(str, self.tls))
                raise ConfigError(f"--tls: {names}", expected="a certificate and its key (PEM)", found=exc) from exc


class TritonServer:
    """A tritonserver on a model repository: a context manager that is ready inside the block.

    Args:
        repository: the model repository.
        options: what to load and where to listen; by default all models, on ports that are free.

    Attributes:
        models: Triton's names of the models that it loads.
        skipped: what it leaves out, by name: what is missing, and the command that completes it.

    Raises:
        ArtifactError: no such repository.
        ConfigError: an unknown model, or an address that is not allowed.
        ServerError: no tritonserver, an empty repository, a port that is taken, a model that fails to load.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self.repository = repository
        self.options = options or ServerOptions()
        inventory = select(repository, self.options.models, self.options.engine, launch.missing_backends())
        self.models, self.skipped = inventory.whole, inventory.skipped
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
        return self._url("grpcs" if self.options.tls else "grpc", "grpc")

    @property
    def metrics_url(self) -> str:
        return f"{self._url('http', 'metrics')}/metrics"

    def _url(self, scheme: str, service: str) -> str:
        host = self._hosts[service]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._ports[service]}"

    @property
    def _hosts(self) -> dict[str, str]:
        plain = "127.0.0.1" if self.options.tls else self.options.host
        return {"http": plain, "grpc": self.options.host, "metrics": plain}

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
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
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
        if launch.installed() is None and not options.insecure and not _is_loopback(options.host):
            raise ConfigError(
                f"--host {options.host}: the tritonserver from PyPI is an older one with known advisories",
                expected="a loopback address such as 127.0.0.1",
                hint="publish NVIDIA's container instead, or add --insecure on a network that you trust",
            )
        wanted = {"http": options.http_port, "grpc": options.grpc_port, "metrics": options.metrics_port}
        self._ports = _bindable(self._hosts, wanted)
        temporary = tempfile.TemporaryDirectory(prefix="shrinkserve-", ignore_cleanup_errors=True)
        folder = self._resources.enter_context(temporary)
        prepared = launch.prepare(self.repository, Path(folder))
        limit = f"--http-max-input-size={options.max_request}"
        limits = [limit] if launch.understands(prepared, limit.partition("=")[0]) else []
        arguments = [
            str(prepared.executable),
            *self._arguments(Path(folder)),
            *prepared.arguments,
            *limits,
            *options.arguments,
        ]
        log = self._resources.enter_context(rotating_log(self.log_file))
        self._process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, str(os.getpid()), folder, *arguments],
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

    def _arguments(self, folder: Path) -> list[str]:
        arguments = [
            *self._loading(folder),
            "--exit-timeout-secs=4",
        ]
        for service, host in self._hosts.items():
            arguments += [f"--{service}-address={host}", f"--{service}-port={self._ports[service]}"]
        if self.options.engine is not None:
            arguments.append(f"--model-config-name={self.options.engine}")
        if self.options.token is not None:
            for option in ("--http-restricted-api", "--grpc-restricted-protocol"):
                arguments.append(f"{option}={','.join(GUARDED)}:{RESTRICTED_KEY}={self.options.token}")
        if self.options.tls is not None:
            certificate, key = self.options.tls
            arguments += ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
        return arguments

    def _loading(self, folder: Path) -> list[str]:
        repository = self.repository.resolve()
        if self.options.fixed:
            # Triton then loads all that it finds, so it gets a folder of links to the chosen models.
            chosen = folder / "models"
            chosen.mkdir()
            for name in self.models:
                (chosen / name).symlink_to(repository / name, target_is_directory=True)
            return [f"--model-repository={chosen}", "--model-control-mode=none"]
        loaded = (f"--load-model={name}" for name in self.models)
        return [f"--model-repository={repository}", "--model-control-mode=explicit", *loaded]

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
                raise ServerError(
                    f"tritonserver is not ready after {self.options.ready_seconds:g} s", hint=self._look()
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._hosts["http"], self._ports["http"], timeout=5)
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
            return ServerError(reason, hint=self._look())
        code = self._process.returncode
        how = signal.Signals(code - 128).name if code > 128 else f"exit code {code}"
        return ServerError(f"tritonserver ended by itself ({how})", hint=self._look())

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
        process.send_signal(supervisor.NOW)
        process.wait()


def _bindable(hosts: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, int]:
    """The ports with a free one for each 0, all of them bound for a moment to see that they can be had."""
    chosen: dict[str, int] = {}
    with ExitStack() as held:
        for service, port in sorted(ports.items(), key=lambda item: item[1] == 0):
            host = hosts[service]
            if port and port in chosen.values():
                raise ConfigError(f"--{service}-port: {port} is another service's", expected="a port of its own")
            try:
                address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                listener = held.enter_context(socket.socket(address[0], socket.SOCK_STREAM))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address[4])
            except OSError as exc:
                raise _unbindable(service, host, port, exc) from exc
            chosen[service] = int(listener.getsockname()[1])
    return chosen


def _unbindable(service: str, host: str, port: int, error: OSError) -> ServerError:
    """What to do about it depends on whether the port or the address is at fault."""
    if error.errno == errno.EADDRINUSE:
        hint = f"stop what holds it, or give another --{service}-port; 0 lets a free one be chosen"
    elif error.errno == errno.EACCES:
        hint = f"give a --{service}-port above 1023"
    else:
        hint = "give an address of this machine (--host)"
    where = f"{host}:{port}" if port else host
    return ServerError(f"{where} cannot be bound for {service} ({error.strerror})", hint=hint)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
