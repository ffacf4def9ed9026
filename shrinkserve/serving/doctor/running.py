"""Check a running server: its release, its models, and the APIs that it leaves open."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from math import prod
from urllib.parse import quote

import psutil
from tritonclient import grpc

from shrinkserve import containers
from shrinkserve.errors import ConfigError
from shrinkserve.serving import names as serving_names
from shrinkserve.serving.client.endpoint import Endpoint, parse_url
from shrinkserve.serving.client.http_codec import HttpRequest
from shrinkserve.serving.client.transport import ReplyTooLongError, http_exchange
from shrinkserve.serving.doctor.finding import Finding
from shrinkserve.serving.doctor.machine import KEEP, OLD, SECONDS
from shrinkserve.serving.names import CANDIDATE
from shrinkserve.serving.server import pip_server
from shrinkserve.serving.server.addresses import resolves_to_loopback

JsonObject = Mapping[str, object]
APIS = {
    "model control": ("POST", "/v2/repository/index", "get_model_repository_index"),
    "shared memory": ("GET", "/v2/systemsharedmemory/status", "get_system_shared_memory_status"),
    "tracing": ("GET", "/v2/trace/setting", "get_trace_settings"),
    "logging": ("GET", "/v2/logging", "get_log_settings"),
}
"""The APIs that change a server or show its inside: method and path over HTTP, and the method of the gRPC client."""
MAX_REPLY = 1 << 20
LARGEST = 1 << 22
"""Most values of an input that a model is checked with."""


@dataclass(frozen=True)
class _Reply:
    """A server's reply: its status (HTTP's, or 0 for none), its JSON object, and the reason of a failure."""

    status: int
    reason: str = ""
    value: JsonObject | None = None


class _Server:
    """HTTP requests to a server, without a proxy."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def send(self, method: str, path: str, body: JsonObject | None = None) -> _Reply:
        """Send a request and return the reply; never raises for what the server does."""
        try:
            with closing(HTTPConnection(self._endpoint.host, self._endpoint.port, timeout=SECONDS)) as connection:
                content = json.dumps(body).encode() if body else b""
                request = HttpRequest(method, f"{self._endpoint.path}{path}", body=content, limit=MAX_REPLY)
                response, content = http_exchange(connection, request, time.monotonic() + SECONDS)
        except (OSError, HTTPException, ReplyTooLongError) as exc:
            return _Reply(0, getattr(exc, "strerror", None) or type(exc).__name__)
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        known = value if isinstance(value, dict) else None
        reason = str((known or {}).get("error", f"HTTP {response.status}"))[:200]
        return _Reply(response.status, reason, known)


def check_server(url: str, grpc_url: str | None = None) -> Iterator[Finding]:
    """Check the server at a URL.

    Args:
        url: ``http://HOST:PORT``, with the path if the server is behind a proxy.
        grpc_url: ``grpc://HOST:PORT`` of the same server.

    Raises:
        ConfigError: an address of another form.
    """
    endpoint = _parse(url, "http")
    server, local = _Server(endpoint), _is_local(endpoint)
    about = server.send("GET", "/v2")
    if about.status != 200 or about.value is None or "version" not in about.value:
        hint = "start one with `shrinkserve serve`, or check the URL"
        why = "another service" if about.status == 200 else about.reason
        yield Finding("error", url, f"no Triton responds ({why})", hint)
        return
    yield _release(str(about.value["version"]))
    ready = server.send("GET", "/v2/health/ready")
    if ready.status != 200:
        yield Finding("error", "readiness", f"not ready ({ready.reason})", "look at its log")
    yield from _models(server)
    for name, (method, path, _) in APIS.items():
        yield _guard(name, server.send(method, path), local=local)
    if grpc_url is not None:
        yield from _check_grpc(grpc_url)
    if not local:
        yield Finding("note", "transport", "HTTP without TLS beyond this machine", "put a TLS proxy in front of it")


def _check_grpc(url: str) -> Iterator[Finding]:
    endpoint = _parse(url, "grpc")
    local = _is_local(endpoint)
    options = [("grpc.enable_http_proxy", 0)] if local else []
    with grpc.InferenceServerClient(endpoint.address, channel_args=options) as client:
        for name, (_, _, method) in APIS.items():
            yield _guard(f"{name} by gRPC", _ask_grpc(getattr(client, method)), local=local)


def _ask_grpc(call: Callable[..., object]) -> _Reply:
    try:
        call(client_timeout=SECONDS)
    except grpc.InferenceServerException as exc:
        reason = str(exc.message())[:200]
        return _Reply(403 if "is restricted" in reason else 0, reason)  # gRPC reports it by the message only
    return _Reply(200)


def _parse(url: str, scheme: str) -> Endpoint:
    endpoint = parse_url(url, SECONDS)
    if endpoint.scheme != scheme:
        hint = "give HTTP with --url, gRPC with --grpc-url"
        raise ConfigError("server URL", expected=f"{scheme}://HOST:PORT", found=url, hint=hint)
    return endpoint


def _is_local(endpoint: Endpoint) -> bool:
    """Return True if only this machine reaches a server."""
    return resolves_to_loopback(endpoint.host) and not _reachable(endpoint.port)


def _reachable(port: int) -> bool:
    """Return True if a server of this machine listens at a port on another address than loopback."""
    with suppress(psutil.AccessDenied, OSError):
        listening = [one.laddr for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        at_port = [address.ip for address in listening if address and address.port == port]
        return any(not ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in at_port)
    return False


def _guard(name: str, reply: _Reply, *, local: bool) -> Finding:
    if reply.status == HTTPStatus.OK:
        what, hint = "open to everyone who reaches the port", "serve with a token: SHRINKSERVE_TOKEN"
        return Finding("note" if local else "error", name, what, hint)
    if reply.status == HTTPStatus.FORBIDDEN:
        return Finding("ok", name, "guarded by a token")
    return Finding("note", name, f"could not be checked ({reply.reason})", "check again when the server is idle")


def _release(version: str) -> Finding:
    """Judge a server's release. The one of the server from PyPI is known to be old and serves loopback only."""
    if version == pip_server.TRITON_VERSION:
        return Finding("note", "server", f"Triton {version}; {OLD}", KEEP)
    number = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    if number is None:
        return Finding("note", "server", f"Triton {version[:40]!r}: unknown release", "check its bulletins")
    if tuple(map(int, number.groups())) >= containers.FLOOR:
        known = containers.container_of(version)
        return Finding("ok", "server", f"Triton {version}" + (f", of the container {known.tag}" if known else ""))
    floor = ".".join(map(str, containers.FLOOR))
    what = f"Triton {version} has known critical vulnerabilities, fixed by {floor}: see {containers.BULLETINS}"
    return Finding("error", "server", what, f"serve with {containers.IMAGE} or a later one")


def _models(server: _Server) -> Iterator[Finding]:
    """Check the loaded models: each gets one request, because a dead process does not change Triton's health."""
    statistics = (server.send("GET", "/v2/models/stats").value or {}).get("model_stats")
    loaded = {str(one.get("name")) for one in statistics} if isinstance(statistics, list) else set()
    left = sorted(name for name in loaded if name.endswith(CANDIDATE))
    names = serving_names.public_names(loaded - set(left))
    shown = [
        f"{name} (takes JPEG)" if {name, serving_names.classifier_name(name)} <= loaded else name for name in names
    ]
    yield Finding("ok" if names else "error", "models", ", ".join(shown) or "none is loaded")
    for name in sorted(loaded - set(left)):
        if why := _failure(server, name):
            yield Finding("error", f"model {name}", f"loaded, but fails ({why})", "restart the server, look at its log")
    for name in left:
        what = "still loaded: a publisher was killed while it tested a version"
        yield Finding("note", name, what, "the next `shrinkserve repo publish` unloads it")


def _failure(server: _Server, name: str) -> str | None:
    """Return why a model does not respond to a request of zeros; None if it responds."""
    path = f"/v2/models/{quote(name, safe='')}"
    try:
        tensors, sizes_known = _zeros(server.send("GET", path).value or {})
    except (TypeError, ValueError, KeyError, AttributeError):  # no metadata that we understand
        return None
    reply = server.send("POST", f"{path}/infer", {"inputs": tensors})
    # A decoder rightly refuses zeros, so of models without known sizes only the loss of the process counts.
    failed = sizes_known and reply.status >= 500
    return reply.reason if failed or reply.status == 0 or "not healthy" in reply.reason else None


def _zeros(metadata: JsonObject) -> tuple[list[JsonObject], bool]:
    """Return one row of zeros for each input of a model, and True if the sizes of all inputs are known.

    Raises:
        ValueError: an input that is not numeric, or too large.
    """
    tensors: list[JsonObject] = []
    inputs, known = metadata["inputs"], True
    if not isinstance(inputs, list):
        raise TypeError("inputs")
    for tensor in inputs:
        shape = [int(size) for size in tensor["shape"]]
        known &= min(shape[1:], default=1) > 0
        sizes = [max(1, size) for size in shape]
        if prod(sizes) > LARGEST or tensor["datatype"] in {"BYTES", "BOOL"}:
            raise ValueError("not a tensor of numbers")
        described = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": sizes}
        tensors.append({**described, "data": [0] * prod(sizes)})
    return tensors, known
