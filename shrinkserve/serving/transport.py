"""Triton's two protocols behind one interface, and their many faults as `RequestError`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.serving.model_config import INPUT

MAX_MESSAGE = 2**31 - 1
"""Of gRPC, in bytes; its own default of 4 MiB is 27 images of 224x224."""

RESTRICTED_KEY = "shrinkserve-token"
"""The key of the APIs that a server restricts."""
_UNKNOWN = ("unknown model", "is not found", "is not available")
_EXPIRED = ("Request timeout expired", "Deadline Exceeded", "DEADLINE_EXCEEDED")
_FULL = "maximum queue size"


@dataclass(frozen=True)
class Question:
    """One inference request.

    Attributes:
        model: its name.
        images: uint8 [N, S, S, 3].
        outputs: output name -> 0 for its tensor, or k for its top k as ``b"value:index:label"``.
        version: of the model; empty for the one that answers.
        priority: 1 is served first; 0 for the model's default.
    """

    model: str
    images: np.ndarray[Any, Any]
    outputs: Mapping[str, int]
    version: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Reply:
    """Output tensors by name, and the version of the model that they are from."""

    tensors: dict[str, np.ndarray[Any, Any]]
    version: int


class Transport(Protocol):
    """One connection. Every method raises `RequestError` when the server is not there or refuses."""

    def ready(self) -> bool: ...

    def config(self, model: str) -> pb.ModelConfig: ...

    def statistics(self, model: str = "") -> list[dict[str, Any]]: ...

    def infer(self, question: Question) -> Reply: ...

    def load(
        self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None
    ) -> None: ...

    def unload(self, model: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """Where a server is and how to speak to it."""

    url: str
    address: str
    timeout: float
    tls: bool = False
    token: str | None = None

    @property
    def headers(self) -> dict[str, str] | None:
        return None if self.token is None else {RESTRICTED_KEY: self.token}


def connect(url: str, timeout: float, token: str | None = None) -> Transport:
    """Open a connection (lazily: nothing is sent yet).

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT``, ``grpc://HOST:PORT`` or ``grpcs://HOST:PORT``.
        timeout: seconds that one request may take.
        token: for the APIs that the server restricts to those who know it.

    Raises:
        ConfigError: not such a URL.
    """
    try:
        parts = urlsplit(url)
        address = f"{parts.hostname}:{parts.port}" if parts.port and parts.hostname else ""
    except ValueError:  # a port that is no number
        address = ""
    if not address or parts.scheme not in {"http", "https", "grpc", "grpcs"}:
        raise ConfigError("server URL", expected="http://HOST:PORT or grpc://HOST:PORT", found=repr(url))
    kind = HttpTransport if parts.scheme.startswith("http") else GrpcTransport
    return kind(Endpoint(url, address, timeout, tls=parts.scheme in {"https", "grpcs"}, token=token))


class GrpcTransport:
    """gRPC. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        from tritonclient import grpc

        self._url, self._timeout, self._library = endpoint.url, endpoint.timeout, grpc
        # Triton looks for the key of a restricted protocol under this prefix.
        self._headers = {f"triton-grpc-protocol-{key}": value for key, value in (endpoint.headers or {}).items()}
        arguments = [
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: clients in threads do not share one
        ]
        self._client = grpc.InferenceServerClient(endpoint.address, ssl=endpoint.tls, channel_args=arguments)

        self._call = {"client_timeout": endpoint.timeout, "headers": self._headers}

    def ready(self) -> bool:
        with explained(self._url):
            return bool(self._client.is_server_ready(**self._call))

    def config(self, model: str) -> pb.ModelConfig:
        with explained(self._url):
            return self._client.get_model_config(model, **self._call).config

    def statistics(self, model: str = "") -> list[dict[str, Any]]:
        with explained(self._url):
            message = self._client.get_inference_statistics(model, **self._call)
        return [
            # int64 is a string in protobuf's JSON and a number in Triton's over HTTP
            _numbers(json_format.MessageToDict(one, preserving_proto_field_name=True))
            for one in message.model_stats
        ]

    def infer(self, question: Question) -> Reply:
        with explained(self._url):
            result = self._client.infer(**request(self._library, question, self._timeout), **self._call)
            tensors = {name: result.as_numpy(name) for name in question.outputs}
            return Reply(tensors, int(result.get_response().model_version))

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        with explained(self._url):
            self._client.load_model(model, **override(config, files), **self._call)

    def unload(self, model: str) -> None:
        with explained(self._url):
            self._client.unload_model(model, **self._call)

    def close(self) -> None:
        self._client.close()


class HttpTransport:
    """HTTP/1.1: a connection a thread, as the library's sockets belong to the event loop of their thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        from tritonclient import http

        self._url, self._timeout, self._library = endpoint.url, endpoint.timeout, http
        self._headers = endpoint.headers
        self._open = partial(
            http.InferenceServerClient,
            endpoint.address,
            ssl=endpoint.tls,
            connection_timeout=endpoint.timeout,
            network_timeout=endpoint.timeout,
        )
        self._local = threading.local()

    @property
    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            self._local.client = self._open()
        return self._local.client

    def ready(self) -> bool:
        with explained(self._url):
            return bool(self._client.is_server_ready(headers=self._headers))

    def config(self, model: str) -> pb.ModelConfig:
        with explained(self._url):
            raw = self._client.get_model_config(model, headers=self._headers)
        return json_format.ParseDict(raw, pb.ModelConfig(), ignore_unknown_fields=True)

    def statistics(self, model: str = "") -> list[dict[str, Any]]:
        with explained(self._url):
            return list(self._client.get_inference_statistics(model, headers=self._headers)["model_stats"])

    def infer(self, question: Question) -> Reply:
        with explained(self._url):
            result = self._client.infer(**request(self._library, question, self._timeout), headers=self._headers)
            tensors = {name: result.as_numpy(name) for name in question.outputs}
            return Reply(tensors, int(result.get_response()["model_version"]))

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        with explained(self._url):
            self._client.load_model(model, **override(config, files), headers=self._headers)

    def unload(self, model: str) -> None:
        with explained(self._url):
            self._client.unload_model(model, headers=self._headers)

    def close(self) -> None:
        self._local = threading.local()  # a connection closes when its last reference goes, with its thread at latest


def request(library: Any, question: Question, timeout: float) -> dict[str, Any]:
    """The arguments of tritonclient's ``infer``, which are the same for all its modules."""
    images = np.ascontiguousarray(question.images)
    tensor = library.InferInput(INPUT, list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return {
        "model_name": question.model,
        "inputs": [tensor],
        "outputs": [library.InferRequestedOutput(name, class_count=top) for name, top in question.outputs.items()],
        "model_version": question.version,
        "priority": question.priority,
        "timeout": int(timeout * 1e6),  # so that the server drops a request that nobody waits for any more
    }


def override(config: pb.ModelConfig | None, files: Mapping[str, bytes] | None) -> dict[str, Any]:
    """The arguments of tritonclient's ``load_model`` that replace what the repository holds."""
    if config is None:
        return {}
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return {"config": text, "files": {f"file:{name}": content for name, content in (files or {}).items()}}


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what the protocols' libraries raise into one line that names the server."""
    try:
        yield
    except InferenceServerException as fault:
        _raise(url, str(fault.message() or ""), str(fault.status() or ""), fault)
    except TimeoutError as fault:
        _raise(url, "", "DEADLINE_EXCEEDED", fault)
    except OSError as fault:
        _raise(url, fault.strerror or str(fault), "UNAVAILABLE", fault)
    except Exception as fault:
        if type(fault).__module__.partition(".")[0] not in {"geventhttpclient", "gevent", "aiohttp"}:
            raise
        _raise(url, str(fault) or type(fault).__name__, "UNAVAILABLE", fault)


class UnknownModelError(RequestError):
    """The server has no such model, or none that is ready."""


class UnavailableError(RequestError):
    """No answer came: the server is not there, went away, or took too long to accept the connection."""


def _raise(url: str, message: str, status: str, fault: Exception) -> NoReturn:
    message = message.rstrip(".")
    if any(words in message for words in _UNKNOWN):
        raise UnknownModelError(f"{url}: {message}") from fault
    if any(words in f"{status} {message}" for words in _EXPIRED):
        raise RequestError(f"{url}: no answer in time", do="give more time (--timeout) or look at the load") from fault
    if "is restricted" in message:
        raise RequestError(
            f"{url}: the server keeps this to those who know its token ({message})",
            do="give the token (--token or SHRINKSERVE_TOKEN)",
        ) from fault
    if _FULL in message:
        raise UnavailableError(f"{url}: the queue is full ({message})", do="send fewer requests at once") from fault
    if "UNAVAILABLE" in status:
        raise UnavailableError(
            f"{url}: no server answers ({message})", do="start one with `shrinkserve serve`, or check the URL"
        ) from fault
    raise RequestError(f"{url}: the request was refused ({message})") from fault


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner) if key not in {"name", "version"} else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value
