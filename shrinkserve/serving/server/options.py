"""Options of a server."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shrinkserve.errors import ConfigError, check_range
from shrinkserve.paths import StrPath

GUARDED = ("model-repository", "shared-memory", "trace", "logging")
"""The groups of Triton's APIs that need the token."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of a `TritonServer`.

    Attributes:
        models: the models to load, by public name or by Triton's name; all if empty. ``--model`` of the command.
        engine: engine to run, for each model that has ``configs/ENGINE.pbtxt``. ``--config`` of the command.
        host: address or host name to listen on. The server from PyPI takes only loopback unless `insecure`.
        http_port: port of HTTP; 0 chooses a free one, also for the next two.
        grpc_port: port of gRPC.
        metrics_port: port of the Prometheus metrics.
        log_file: the server's log; by default a file named after the port in the user's log folder.
        insecure: allow the server from PyPI to listen on any address.
        fixed: disable loading and unloading of models, with or without a token (``--model-control-mode=none``).
        token: secret that clients must send to the APIs of `GUARDED`. None leaves them open. Triton takes it on its
            command line, which users of the same machine can read.
        tls: certificate and key (PEM) for gRPC. Triton has no TLS for HTTP and metrics, so these stay on loopback.
        max_request: largest HTTP request in bytes. The server from PyPI has no such limit.
        trace: folder for Triton's trace of every request; must exist.
        arguments: further arguments of tritonserver, with absolute paths. HTTP and metrics must stay on.
        ready_seconds: time limit for loading the models.
    """

    models: Sequence[str] = ()
    engine: str | None = None
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    log_file: StrPath | None = None
    insecure: bool = False
    fixed: bool = False
    token: str | None = field(default=None, repr=False)
    tls: tuple[StrPath, StrPath] | None = None
    max_request: int = 64 << 20
    trace: StrPath | None = None
    arguments: Sequence[str] = ()
    ready_seconds: float = 300

    def __post_init__(self) -> None:
        """Check the values that Triton would misread.

        Raises:
            ConfigError: names the option.
        """
        if isinstance(self.models, str):  # its letters would be taken for names
            object.__setattr__(self, "models", (self.models,))
        check_range(0, 65535, http_port=self.http_port, grpc_port=self.grpc_port, metrics_port=self.metrics_port)
        check_range(1, max_request=self.max_request)
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,}", self.token):
            raise ConfigError("--token", expected="8 or more letters, digits and . _ ~ -", found="something else")
        for file in self.tls or ():
            if not Path(file).is_file():
                raise ConfigError(f"--tls: {file}: no such file", hint="give the PEM files of certificate and key")
        if self.tls:
            try:  # Triton reports an unreadable certificate as a port in use
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self.tls, password="")
            except (OSError, ValueError) as exc:
                names = " and ".join(map(str, self.tls))
                raise ConfigError(f"--tls: {names}", expected="a certificate and its key (PEM)", found=exc) from exc
        if self.trace is not None and not Path(self.trace).is_dir():
            raise ConfigError(f"--trace: {self.trace}: no such folder", hint="make it, or give another folder")
