"""Triton's two protocols behind one interface, and their many faults as `RequestError`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT
from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.serving.client.errors import explained
from shrinkserve.serving.names import RESTRICTED_KEY

if TYPE_CHECKING:
    from shrinkserve.serving.client.shared_memory import Regions

MAX_MESSAGE = 2**31 - 1
"""Of gRPC, in bytes; its own default of 4 MiB is 27 images of 224x224."""

CHANNEL = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: clients in threads do not share one
    ("grpc.initial_reconnect_backoff_ms", 100),  # instead of 1 s, in which every attempt fails unsent
    ("grpc.max_reconnect_backoff_ms", 2000),
]


@dataclass(frozen=True)
class InferRequest:
    """One inference request.

    Attributes:
        model: its name.
        images: uint8 [N, S, S, 3]; or [1, bytes] where `tensor` takes an encoded image.
        outputs: output name -> 0 for its tensor, or k for its top k as ``b"value:index:label"``.
        version: of the model; empty for the one that answers.
        priority: 1 is served first; 0 for the model's default.
        tensor: the input's name.
    """

    model: str
    images: np.ndarray[Any, Any]
    outputs: Mapping[str, int]
    version: str = ""
    priority: int = 0
    tensor: str = INPUT


@dataclass(frozen=True)
class InferResult:
    """Output tensors by name, and the version of the model that they are from."""

    tensors: dict[str, np.ndarray[Any, Any]]
    version: int


class Transport(Protocol):
    """One connection. Every method raises `RequestError` when the server is not there or refuses."""

    def ready(self) -> bool: ...

    def config(self, model: str) -> pb.ModelConfig: ...

    def statistics(self, model: str = "") -> list[dict[str, Any]]: ...

    def infer(self, question: InferRequest) -> InferResult: ...

    def load(
        self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None
    ) -> None: ...

    def unload(self, model: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """Where a server is and how to speak to it."""

    url: str
    scheme: str
    address: str
    timeout: float
    token: str | None = field(default=None, repr=False)
    shared_memory: bool = False

    @property
    def http(self) -> bool:
        return self.scheme in {"http", "https"}

    @property
    def tls(self) -> bool:
        return self.scheme in {"https", "grpcs"}

    @property
    def headers(self) -> dict[str, str]:
        """What tells the server our token; gRPC's key carries a prefix of Triton's."""
        key = RESTRICTED_KEY if self.http else f"triton-grpc-protocol-{RESTRICTED_KEY}"
        return {} if self.token is None else {key: self.token}


def parse_url(url: str, timeout: float, token: str | None = None, *, shared_memory: bool = False) -> Endpoint:
    """Where a URL leads.

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT``, ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT``.
        timeout: seconds that one request may take.
        token: for the APIs that the server restricts to those who know it.
        shared_memory: hand images over in the memory of this machine.

    Raises:
        ConfigError: not such a URL, or no time at all.
    """
    if "@" in url:  # would otherwise appear in messages and reports
        raise ConfigError("server URL: contains a user name or password", hint="give http://HOST:PORT and --token")
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        address = f"{host}:{parts.port}" if parts.port and host else ""
    except ValueError:  # a port that is no number
        address = ""
    if not address or parts.scheme not in {"http", "https", "grpc", "grpcs"}:
        raise ConfigError("server URL", expected="http://HOST:PORT or grpc://HOST:PORT", found=repr(url))
    if not timeout > 0:  # the libraries would take 0 for no limit, or for one that has passed
        raise ConfigError("timeout", expected="more than 0 s", found=timeout)
    return Endpoint(url, parts.scheme, address, timeout, token, shared_memory)


def connect(endpoint: Endpoint) -> Transport:
    """Open a connection, lazily: nothing is sent yet."""
    return HttpTransport(endpoint) if endpoint.http else GrpcTransport(endpoint)


class GrpcTransport:
    """gRPC. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        from tritonclient import grpc

        self._url, self._timeout, self._library = endpoint.url, endpoint.timeout, grpc
        self._client = grpc.InferenceServerClient(endpoint.address, ssl=endpoint.tls, channel_args=CHANNEL)
        self._call = {"client_timeout": endpoint.timeout, "headers": endpoint.headers}
        self._regions = regions_of(endpoint)

    def ready(self) -> bool:
        with explained(self._url):
            return bool(self._client.is_server_ready(**self._call))

    def config(self, model: str) -> pb.ModelConfig:
        with explained(self._url):
            return self._client.get_model_config(model, **self._call).config

    def statistics(self, model: str = "") -> list[dict[str, Any]]:
        with explained(self._url):
            return model_statistics(self._client.get_inference_statistics(model, **self._call))

    def infer(self, question: InferRequest) -> InferResult:
        with explained(self._url), shared(self._regions, self._client, self._call, question) as region:
            result = self._client.infer(**request(self._library, question, self._timeout, region), **self._call)
            tensors = {name: result.as_numpy(name) for name in question.outputs}
            return InferResult(tensors, int(result.get_response().model_version))

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        with explained(self._url):
            self._client.load_model(model, **override(config, files), **self._call)

    def unload(self, model: str) -> None:
        with explained(self._url):
            self._client.unload_model(model, **self._call)

    def close(self) -> None:
        if self._regions:
            self._regions.close(self._client, self._call)
        self._client.close()


class HttpTransport:
    """HTTP/1.1: a connection a thread, as the library's sockets belong to the event loop of their thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        from tritonclient import http

        self._url, self._timeout, self._library = endpoint.url, endpoint.timeout, http
        self._call = {"headers": endpoint.headers}
        self._regions = regions_of(endpoint)
        self._open = partial(
            http.InferenceServerClient,
            endpoint.address,
            ssl=endpoint.tls,
            connection_timeout=endpoint.timeout,
            network_timeout=endpoint.timeout,
        )
        self._local = threading.local()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """This thread's connection, for one request that ends in time; the library limits only each read of it."""
        from gevent import Timeout

        if not hasattr(self._local, "client"):
            self._local.client = self._open()
        with explained(self._url):
            try:
                with Timeout(self._timeout, TimeoutError):
                    yield self._local.client
            except TimeoutError:
                del self._local.client  # the rest of the answer would be taken for that of the next request
                raise

    def ready(self) -> bool:
        with self._connection() as client:
            return bool(client.is_server_ready(**self._call))

    def config(self, model: str) -> pb.ModelConfig:
        with self._connection() as client:
            return parse_config(client.get_model_config(model, **self._call))

    def statistics(self, model: str = "") -> list[dict[str, Any]]:
        with self._connection() as client:
            return list(client.get_inference_statistics(model, **self._call)["model_stats"])

    def infer(self, question: InferRequest) -> InferResult:
        with self._connection() as client, shared(self._regions, client, self._call, question) as region:
            result = client.infer(**request(self._library, question, self._timeout, region), **self._call)
            tensors = {name: result.as_numpy(name) for name in question.outputs}
            return InferResult(tensors, int(result.get_response()["model_version"]))

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        with self._connection() as client:
            client.load_model(model, **override(config, files), **self._call)

    def unload(self, model: str) -> None:
        with self._connection() as client:
            client.unload_model(model, **self._call)

    def close(self) -> None:
        if self._regions:
            with suppress(RequestError), self._connection() as client:
                self._regions.close(client, self._call)
        self._local = threading.local()  # a connection closes when its last reference goes, with its thread at latest


def regions_of(endpoint: Endpoint) -> Regions | None:
    """Shared memory for an endpoint that wants it."""
    if not endpoint.shared_memory:
        return None
    from shrinkserve.serving.client.shared_memory import Regions

    return Regions(urlsplit(endpoint.url).hostname, endpoint.url)


def shared(
    regions: Regions | None, client: Any, call: dict[str, Any], question: InferRequest
) -> AbstractContextManager[tuple[str, int] | None]:
    """Where the server finds the images of a question: in shared memory, or, for None, in the request itself."""
    return regions.holding(client, call, question.images) if regions else nullcontext()


def request(
    library: Any, question: InferRequest, timeout: float, region: tuple[str, int] | None = None
) -> dict[str, Any]:
    """The arguments of tritonclient's ``infer``, which are the same for all its modules.

    Args:
        library: one of these modules.
        question: what is asked.
        timeout: seconds.
        region: name and bytes of the shared memory that holds the images; None to send them.
    """
    images = np.ascontiguousarray(question.images)
    tensor = library.InferInput(question.tensor, list(images.shape), "UINT8")
    if region is None:
        tensor.set_data_from_numpy(images)
    else:
        tensor.set_shared_memory(*region)
    return {
        "model_name": question.model,
        "inputs": [tensor],
        "outputs": [library.InferRequestedOutput(name, class_count=top) for name, top in question.outputs.items()],
        "model_version": question.version,
        "priority": question.priority,
        "timeout": int(timeout * 1e6),  # a server that limits its queue drops what nobody waits for any more
    }


def parse_config(raw: dict[str, Any]) -> pb.ModelConfig:
    """A model's configuration from its JSON, by a server that may be newer than the library."""
    return json_format.ParseDict(raw, pb.ModelConfig(), ignore_unknown_fields=True)


def model_statistics(message: Any) -> list[dict[str, Any]]:
    """Statistics over gRPC as what HTTP gives: protobuf's JSON has each int64 as a string, Triton's as a number."""
    return [_numbers(json_format.MessageToDict(one, preserving_proto_field_name=True)) for one in message.model_stats]


def override(config: pb.ModelConfig | None, files: Mapping[str, bytes] | None) -> dict[str, Any]:
    """The arguments of tritonclient's ``load_model`` that replace what the repository holds."""
    if config is None:
        return {}
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return {"config": text, "files": {f"file:{name}": content for name, content in (files or {}).items()}}


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner) if key not in {"name", "version"} else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value
