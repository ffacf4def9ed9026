"""Triton's HTTP protocol: requests as bytes and replies as results, without input and output."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import quote

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2

from shrinkserve.serving.client.endpoint import Endpoint
from shrinkserve.serving.client.errors import Status, invalid_reply, request_error
from shrinkserve.serving.client.operations import (
    ConfigRequest,
    InferRequest,
    InferResult,
    LoadRequest,
    Operation,
    ReadyRequest,
    RegisterRegion,
    StatisticsRequest,
    UnloadRequest,
    UnregisterRegion,
)
from shrinkserve.serving.client.tensors import decode_statistics, decode_tensor

T = TypeVar("T")
JSON_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON before the tensors."""
MAX_REPLY = 256 << 20
"""Longest reply to an inference, in bytes."""
MAX_METADATA = 32 << 20
"""Longest other reply, in bytes; 100,000 class names of 80 characters take a quarter of it."""

_STATUS: dict[int, Status] = {
    HTTPStatus.UNAUTHORIZED: Status.FORBIDDEN,
    HTTPStatus.FORBIDDEN: Status.FORBIDDEN,
    HTTPStatus.NOT_FOUND: Status.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: Status.LATE,
    HTTPStatus.TOO_MANY_REQUESTS: Status.UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY: Status.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: Status.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: Status.LATE,
}


@dataclass(frozen=True)
class HttpRequest:
    """HTTP request without its connection."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    limit: int = MAX_METADATA
    """Longest body of the reply, in bytes."""


def encode(operation: Operation[Any], endpoint: Endpoint) -> HttpRequest:
    """Return the HTTP request for an operation."""
    headers = endpoint.headers(operation)
    if isinstance(operation, InferRequest):
        return _encode_infer(operation, endpoint, headers)
    body: Mapping[str, object] | None = None
    match operation:
        case ReadyRequest():
            path = "health/ready"
        case ConfigRequest(model):
            path = f"models/{_quoted(model)}/config"
        case StatisticsRequest(model):
            path = f"models/{_quoted(model)}/stats" if model else "models/stats"
        case LoadRequest(model):
            path, body = f"repository/models/{_quoted(model)}/load", _override(operation)
        case UnloadRequest(model):
            path, body = f"repository/models/{_quoted(model)}/unload", {}
        case RegisterRegion(region, size):
            path = f"systemsharedmemory/region/{region}/register"
            body = {"key": f"/{region}", "offset": 0, "byte_size": size}
        case UnregisterRegion(region):
            path, body = f"systemsharedmemory/region/{region}/unregister", {}
        case _:
            raise TypeError(f"not a request: {operation!r}")
    method, content = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    return HttpRequest(method, f"{endpoint.path}/v2/{path}", headers, content)


def decode(operation: Operation[T], url: str, status: int, head_length: str | None, body: bytes) -> T:
    """Return the result of an operation.

    Args:
        operation: that was sent.
        url: of the server.
        status: of the reply.
        head_length: value of its header `JSON_LENGTH`.
        body: of the reply.

    Raises:
        RequestError: the server refused the request or failed, or its reply is invalid.
    """
    result: Any = None
    if isinstance(operation, ReadyRequest):
        result = status == HTTPStatus.OK
    elif status != HTTPStatus.OK:
        raise request_error(url, *_failure(status, body))
    try:
        match operation:
            case ConfigRequest():
                result = json_format.ParseDict(json.loads(body), pb.ModelConfig(), ignore_unknown_fields=True)
            case StatisticsRequest():
                found = service_pb2.ModelStatisticsResponse()
                result = decode_statistics(json_format.ParseDict(json.loads(body), found, ignore_unknown_fields=True))
            case InferRequest():
                result = _decode_infer(operation, head_length, body)
    except Exception as exc:  # whatever a foreign reply makes the parsers raise
        raise invalid_reply(url, str(exc)) from exc
    return cast("T", result)


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _override(operation: LoadRequest) -> dict[str, object]:
    if operation.config is None:
        return {}
    files = {f"file:{name}": base64.b64encode(content).decode() for name, content in operation.files.items()}
    config = json_format.MessageToJson(operation.config, preserving_proto_field_name=True)
    return {"parameters": {"config": config, **files}}


def _encode_infer(operation: InferRequest, endpoint: Endpoint, headers: dict[str, str]) -> HttpRequest:
    pixels = operation.pixels
    if operation.region is None:
        where: dict[str, object] = {"binary_data_size": pixels.nbytes}
    else:
        where = {"shared_memory_region": operation.region, "shared_memory_byte_size": pixels.nbytes}
    parameters: dict[str, object] = {"timeout": int(endpoint.timeout * 1e6)}
    if operation.priority:
        parameters["priority"] = operation.priority
    head = {
        "inputs": [{"name": operation.tensor, "shape": pixels.shape, "datatype": "UINT8", "parameters": where}],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True, **({"classification": top} if top else {})}}
            for name, top in operation.outputs.items()
        ],
        "parameters": parameters,
    }
    encoded = json.dumps(head).encode()
    version = f"/versions/{_quoted(operation.version)}" if operation.version else ""
    path = f"{endpoint.path}/v2/models/{_quoted(operation.model)}{version}/infer"
    body = encoded if operation.region else b"".join([encoded, pixels.data])
    return HttpRequest("POST", path, {**headers, JSON_LENGTH: str(len(encoded))}, body, limit=MAX_REPLY)


def _decode_infer(operation: InferRequest, head_length: str | None, body: bytes) -> InferResult:
    """Return the wanted tensors of a reply.

    Raises:
        Exception: the reply is not as Triton sends it.
    """
    start = len(body) if head_length is None else int(head_length)
    head = json.loads(body[:start])
    rest = memoryview(body)[start:]
    tensors = {}
    for output in head["outputs"]:
        size = int(output["parameters"]["binary_data_size"])
        if not 0 <= size <= len(rest):
            raise ValueError(f"{size} bytes announced, {len(rest)} received")
        tensors[output["name"]] = decode_tensor(output["name"], output["datatype"], output["shape"], rest[:size])
        rest = rest[size:]
    return InferResult({name: tensors[name] for name in operation.outputs}, int(head["model_version"]))


def _failure(status: int, body: bytes) -> tuple[Status, str]:
    kind = _STATUS.get(status, Status.FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Status.REFUSED)
    try:
        message = json.loads(body)["error"]
        return kind, message if isinstance(message, str) else f"HTTP status {status}"
    except (ValueError, KeyError, TypeError, RecursionError):
        # Not Triton's words, so they say nothing about a model.
        return Status.INVALID if kind in {Status.NOT_FOUND, Status.REFUSED} else kind, f"HTTP status {status}"
