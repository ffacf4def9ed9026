"""Run a model once for a batch of requests.

Triton passes to `execute` the requests that its scheduler put into one batch. Their tensors are in shared memory and
are read in place (DLPack). A batch of one is not copied; a larger one is copied once, to join its rows.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shrinkserve.serving.backends.arguments import ModelArguments
from shrinkserve.serving.backends.metrics import ExecutionTimes

Array = npt.NDArray[Any]
Inputs = dict[str, Array]
"""Input tensors of one request by name, rows first."""
Infer = Callable[[Sequence[Inputs], Sequence[str]], Sequence[Array]]
"""Inputs of requests and names of the requested outputs -> these outputs, with the rows of all requests in order."""


class TritonTensor(Protocol):
    """Triton's `pb_utils.Tensor`."""

    def name(self) -> str: ...
    def __dlpack__(self, *, stream: None = None) -> Any: ...  # a capsule


class TritonRequest(Protocol):
    """Triton's `pb_utils.InferenceRequest`."""

    def requested_output_names(self) -> Sequence[str]: ...
    def inputs(self) -> Sequence[TritonTensor]: ...


class TritonResponse(Protocol):
    """Triton's `pb_utils.InferenceResponse`."""


USED = ctypes.c_char_p(b"used_dltensor")
"""Name that DLPack's protocol gives to a capsule that was consumed."""
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]


def respond(
    requests: Sequence[TritonRequest], arguments: ModelArguments, infer: Infer, times: ExecutionTimes
) -> list[TritonResponse]:
    """Run the model once for all requests; if that fails, once for each, so that only bad requests fail.

    Args:
        requests: the requests of one batch.
        arguments: the model's instance.
        infer: runs the model.
        times: receives the time that it takes.

    Returns:
        A response for each request, in order.
    """
    started = time.perf_counter()
    try:
        if len(requests) > 1 and arguments.batches:
            with suppress(Exception):  # of any kind: the single runs show which request causes it
                return _respond(requests, arguments, infer)
        return [_respond_or_refuse(request, arguments, infer) for request in requests]
    finally:
        times.add(time.perf_counter() - started, len(requests))


def join_rows(requests: Sequence[Inputs]) -> Inputs:
    """Return the inputs of requests as those of one request: concatenated rows."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


def _respond_or_refuse(request: TritonRequest, arguments: ModelArguments, infer: Infer) -> TritonResponse:
    import triton_python_backend_utils as pb_utils

    try:
        return _respond([request], arguments, infer)[0]
    except Exception as exc:  # noqa: BLE001 - a request must not end the model
        reason = " ".join(str(exc).split())
        response: TritonResponse = pb_utils.InferenceResponse(
            error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG)
        )
        return response


def _respond(requests: Sequence[TritonRequest], arguments: ModelArguments, infer: Infer) -> list[TritonResponse]:
    import triton_python_backend_utils as pb_utils

    wanted = [set(request.requested_output_names()) for request in requests]
    names = [name for name in arguments.outputs if any(name in some for some in wanted)]
    given: list[Inputs] = [
        {tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()} for request in requests
    ]
    results = dict(zip(names, infer(given, names), strict=True))
    responses: list[TritonResponse] = []
    start = 0
    for inputs, some in zip(given, wanted, strict=True):
        stop = start + len(next(iter(inputs.values())))
        rows = slice(start, stop) if len(requests) > 1 else slice(None)
        tensors = [_tensor(name, result[rows]) for name, result in results.items() if name in some]
        responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        start = stop
    return responses


def _tensor(name: str, array: Array) -> TritonTensor:
    """Return a Triton tensor of an array, without a copy.

    It is made through DLPack, since the stub's own constructor makes empty tensors with numpy 2. The stub gives a
    consumed capsule another name than DLPack's protocol, about which numpy's destructor complains on stderr.
    """
    import triton_python_backend_utils as pb_utils

    capsule = array.__dlpack__()
    tensor: TritonTensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, USED)
    return tensor
