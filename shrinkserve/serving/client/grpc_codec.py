"""Triton's gRPC protocol: requests as protobuf messages and replies as results, without input and output."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from shrinkserve.errors import RequestError
from shrinkserve.serving.client.endpoint import Endpoint
from shrinkserve.serving.client.errors import Status, invalid_reply, request_error
from shrinkserve.serving.client.http_codec import MAX_REPLY
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
MAX_SENT = 2**31 - 1
"""Longest request in bytes; gRPC's own limit of 4 MiB is 27 images of 224x224."""

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: Status.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Status.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Status.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: Status.REFUSED,
    grpc.StatusCode.NOT_FOUND: Status.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: Status.FORBIDDEN,
    grpc.StatusCode.UNAUTHENTICATED: Status.FORBIDDEN,
    grpc.StatusCode.UNAVAILABLE: Status.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: Status.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Status.LATE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Status.INVALID,
    grpc.StatusCode.UNIMPLEMENTED: Status.INVALID,
}


def channel_options(endpoint: Endpoint) -> list[tuple[str, int]]:
    """Return the options of a channel."""
    options = [
        ("grpc.max_send_message_length", MAX_SENT),
        ("grpc.max_receive_message_length", MAX_REPLY),
        ("grpc.use_local_subchannel_pool", 1),  # a connection per client; otherwise all clients share one
        ("grpc.initial_reconnect_backoff_ms", 100),  # instead of 1 s, in which every attempt fails unsent
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if endpoint.local:
        options.append(("grpc.enable_http_proxy", 0))  # gRPC would send loopback to the proxy of the environment
    return options


def encode(operation: Operation[Any], endpoint: Endpoint) -> tuple[str, Message]:
    """Return the name of the remote procedure and its request for an operation."""
    request: Message
    match operation:
        case ReadyRequest():
            name, request = "ServerReady", pb.ServerReadyRequest()
        case ConfigRequest(model):
            name, request = "ModelConfig", pb.ModelConfigRequest(name=model)
        case StatisticsRequest(model):
            name, request = "ModelStatistics", pb.ModelStatisticsRequest(name=model)
        case InferRequest():
            name, request = "ModelInfer", _encode_infer(operation, endpoint)
        case LoadRequest():
            name, request = "RepositoryModelLoad", _encode_load(operation)
        case UnloadRequest(model):
            name, request = "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model)
        case RegisterRegion(region, size):
            request = pb.SystemSharedMemoryRegisterRequest(name=region, key=f"/{region}", byte_size=size)
            name = "SystemSharedMemoryRegister"
        case UnregisterRegion(region):
            name, request = "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=region)
        case _:
            raise TypeError(f"not a request: {operation!r}")
    return name, request


def decode(operation: Operation[T], url: str, reply: Any) -> T:
    """Return the result of an operation.

    Raises:
        RequestError: the reply is invalid.
    """
    result: Any = None
    try:
        match operation:
            case ReadyRequest():
                result = bool(reply.ready)
            case ConfigRequest():
                result = reply.config
            case StatisticsRequest():
                result = decode_statistics(reply)
            case InferRequest():
                result = _decode_infer(operation, reply)
    except Exception as exc:  # whatever a foreign reply makes the parsers raise
        raise invalid_reply(url, str(exc)) from exc
    return cast("T", result)


def error(url: str, exc: grpc.RpcError) -> RequestError:
    """Return the `RequestError` for a failed call."""
    return request_error(url, _STATUS.get(exc.code(), Status.FAILED), str(exc.details() or exc.code().name))


def _encode_load(operation: LoadRequest) -> Message:
    message = pb.RepositoryModelLoadRequest(model_name=operation.model)
    if operation.config is not None:
        text = json_format.MessageToJson(operation.config, preserving_proto_field_name=True)
        message.parameters["config"].string_param = text
        for name, content in operation.files.items():
            message.parameters[f"file:{name}"].bytes_param = content
    return cast("Message", message)


def _encode_infer(operation: InferRequest, endpoint: Endpoint) -> Message:
    pixels = operation.pixels
    request = pb.ModelInferRequest(model_name=operation.model, model_version=operation.version)
    tensor = request.inputs.add(name=operation.tensor, datatype="UINT8", shape=pixels.shape)
    if operation.region is None:
        request.raw_input_contents.append(pixels.tobytes())
    else:
        tensor.parameters["shared_memory_region"].string_param = operation.region
        tensor.parameters["shared_memory_byte_size"].int64_param = pixels.nbytes
    for name, top in operation.outputs.items():
        output = request.outputs.add(name=name)
        if top:
            output.parameters["classification"].int64_param = top
    # A server that limits its queue drops requests whose client does not wait any more.
    request.parameters["timeout"].int64_param = int(endpoint.timeout * 1e6)
    if operation.priority:
        request.parameters["priority"].uint64_param = operation.priority
    return cast("Message", request)


def _decode_infer(operation: InferRequest, reply: Any) -> InferResult:
    tensors = {
        output.name: decode_tensor(output.name, output.datatype, output.shape, raw)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }
    return InferResult({name: tensors[name] for name in operation.outputs}, int(reply.model_version))
