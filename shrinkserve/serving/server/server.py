"""A tritonserver as a context manager: started, watched, logged, and ended without leftovers."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import platformdirs

from shrinkserve.errors import ConfigError, RequestError, ServerError
from shrinkserve.paths import StrPath
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import RESTRICTED_KEY
from shrinkserve.serving.server import launch
from shrinkserve.serving.server.addresses import (
    Address,
    ServiceName,
    free_addresses,
    resolve_host,
    resolves_to_loopback,
)
from shrinkserve.serving.server.launch import LaunchSpec
from shrinkserve.serving.server.leftovers import remove_old_logs
from shrinkserve.serving.server.options import GUARDED, ServerOptions
from shrinkserve.serving.server.process import ServerProcess
from shrinkserve.serving.server.selection import select, shown_names
from shrinkserve.serving.server.workspace import link_models, linked, temporary_folder

__all__ = ["ServerOptions", "TritonServer"]
MIN_FILES = 256
"""Open files without which Triton starts, but may accept no connection."""


class TritonServer:
    """A tritonserver on a model repository. Inside its `with` block it is ready.

    The server ends with the process that started it, however that ends. If one of its models' processes dies or is
    stopped, the server ends as well, because Triton would refuse every further request to that model and still report
    itself as healthy; `wait` then raises.

    Args:
        repository: the model repository.
        options: what to load and where to listen; by default all models, on free ports.

    Attributes:
        models: the models that it loads, by Triton's name.
        public_names: the same by public name.
        skipped: the models that it leaves out, with the reason.

    Raises:
        ArtifactError: no such repository.
        ConfigError: an unknown model or engine.
        ServerError: no model can be loaded.

    Example:
        with TritonServer("model_repository", ServerOptions(models=["digits"])) as server:
            print(Client(server.grpc_url).classify(["3.jpg"]))
    """

    def __init__(self, repository: StrPath, options: ServerOptions | None = None) -> None:
        self.repository = Path(repository)
        self.options = options or ServerOptions()
        found = select(self.repository, self.options.models, self.options.engine, launch.how_to_get)
        self.models, self.skipped, self.public_names = found.models, found.skipped, shown_names(found)
        self._addresses: dict[ServiceName, Address] = {}
        self._resources = ExitStack()
        self._process: ServerProcess | None = None

    @property
    def http_url(self) -> str:
        return f"http://{self._address('http').authority}"

    @property
    def grpc_url(self) -> str:
        return f"{'grpcs' if self.options.tls else 'grpc'}://{self._address('grpc').authority}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._address('metrics').authority}/metrics"

    @property
    def log_file(self) -> Path:
        """The log; older parts of it are in files that end in .1, .2, ..."""
        if self.options.log_file is not None:
            return Path(self.options.log_file)
        return platformdirs.user_log_path("shrinkserve") / f"tritonserver-{self._address('http').port}.log"

    @property
    def pid(self) -> int:
        """Process id of the server's supervisor, while it runs."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    def _address(self, service: ServiceName) -> Address:
        if service not in self._addresses:
            raise ServerError("the server has no address yet", hint="start it: with Server(...) as server")
        return self._addresses[service]

    def __repr__(self) -> str:
        state = "not started" if self._process is None else self.grpc_url
        return f"{type(self).__name__}({str(self.repository)!r}, models={self.public_names}, {state})"

    def __enter__(self) -> TritonServer:
        """Start the server.

        Raises:
            ConfigError: an address that is not allowed, or one port for two services.
            ServerError: no tritonserver, a port in use, a model that fails to load, or the server runs already.
        """
        if self._process is not None:
            raise ServerError("the server runs already", hint="use the one that `with` gave, or create another one")
        try:
            self._start()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Wait until the server ends, which it does not do by itself.

        Raises:
            ServerError: says why it ended.
        """
        if self._process is not None:
            self._process.wait()
            raise self._process.error()

    def stop(self) -> None:
        """End the server: requests in flight finish first; no process and no file stays."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.stop(in_order=self.options.trace is not None)
        finally:
            self._resources.close()

    def _start(self) -> None:
        options = self.options
        host = resolve_host(options.host)
        if launch.installed() is None and not options.insecure and not resolves_to_loopback(options.host):
            raise ConfigError(
                f"--host {options.host}: the server from PyPI is an older Triton with known advisories",
                expected="a loopback address such as 127.0.0.1",
                hint="use NVIDIA's container instead, or add --insecure on a trusted network",
            )
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
            hint = "raise the hard limit (ulimit -Hn 1024)"
            raise ServerError("too few files may be open", expected=f"at least {MIN_FILES}", found=hard, hint=hint)
        plain = "127.0.0.1" if options.tls else host
        ports: dict[ServiceName, int] = {
            "http": options.http_port,
            "grpc": options.grpc_port,
            "metrics": options.metrics_port,
        }
        self._addresses = free_addresses({"http": plain, "grpc": host, "metrics": plain}, ports)
        folder = Path(self._resources.enter_context(temporary_folder()))
        spec = launch.prepare_launch(self.repository, folder)
        if options.log_file is None:
            remove_old_logs(self.log_file.parent)
        command = [str(spec.executable), *self._arguments(spec, folder), *spec.arguments, *options.arguments]
        self._process = ServerProcess(command, spec.environment, folder, self.log_file)

    def _arguments(self, spec: LaunchSpec, folder: Path) -> list[str]:
        options = self.options
        arguments = [*self._loading(folder), "--exit-timeout-secs=4"]
        for service, address in self._addresses.items():
            arguments += address.arguments(service)
        if options.engine is not None:
            arguments.append(f"--model-config-name={options.engine}")
        if options.token is not None:
            for option in ("--http-restricted-api", "--grpc-restricted-protocol"):
                arguments.append(f"{option}={','.join(GUARDED)}:{RESTRICTED_KEY}={options.token}")
        if options.tls is not None:
            certificate, key = (Path(path).absolute() for path in options.tls)
            arguments += ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
        if options.trace is not None:
            file = Path(options.trace).absolute() / "trace"
            settings = ("mode=triton", "rate=1", "level=TIMESTAMPS", "triton,log-frequency=100", f"triton,file={file}")
            arguments += [f"--trace-config={setting}" for setting in settings]
        if launch.has_option(spec, "--http-max-input-size"):
            arguments.append(f"--http-max-input-size={options.max_request}")
        return arguments

    def _loading(self, folder: Path) -> list[str]:
        if self.options.fixed:  # Triton then loads all that it finds
            chosen = link_models(self.repository, self.models, folder)
            return [f"--model-repository={chosen}", "--model-control-mode=none"]
        place = linked(self.repository.resolve(), folder, "repository")
        loaded = (f"--load-model={name}" for name in self.models)
        return [f"--model-repository={place}", "--model-control-mode=explicit", *loaded]

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.options.ready_seconds
        while not (self._process.listens.is_set() and self._is_ready()):
            if self._process.ended:
                raise self._process.error()
            if time.monotonic() > deadline:
                seconds = f"{self.options.ready_seconds:g} s"
                raise ServerError(f"tritonserver is not ready after {seconds}", hint=f"its log is {self.log_file}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        metrics = self._addresses["metrics"]
        try:
            # Triton logs that its metrics listen a moment before they do.
            socket.create_connection((metrics.host, metrics.port), timeout=5).close()
            with Client(self.http_url, timeout=5) as client:
                return client.ready()
        except (OSError, RequestError):
            return False
