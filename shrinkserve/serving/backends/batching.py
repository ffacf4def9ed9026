"""One run of a model for many requests.

Triton gives `execute` the requests that its scheduler put into one batch. Their tensors lie in shared memory and
are read in place (DLPack); a batch of one is not copied at all, a larger one once, to lie side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.serving.backends.arguments import ModelArguments

Array = npt.NDArray[Any]
Inputs = dict[str, Array]
"""The input tensors of one request by name, rows first."""
Infer = Callable[[Sequence[Inputs], Sequence[str]], Sequence[Array]]
"""The inputs of requests and the names of the wanted outputs -> these outputs, all requests' rows in order."""

USED = ctypes.c_char_p(b"used_dltensor")
"""What the DLPack protocol calls a capsule that was taken."""
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]


def answer(requests: Sequence[Any], arguments: ModelArguments, infer: Infer) -> list[Any]:
    """Answer requests with one run of the model; if that fails, with a run each, so that only bad ones fail.

    Args:
        requests: `pb_utils.InferenceRequest`s.
        arguments: the model's instance.
        infer: runs the model.

    Returns:
        A `pb_utils.InferenceResponse` a request, in order.
    """
    if len(requests) > 1 and arguments.batches:
        with suppress(Exception):  # whatever the runtime raises: the runs one by one will tell whose fault it is
            return _respond(requests, arguments, infer)
    return [_respond_or_refuse(request, arguments, infer) for request in requests]


def side_by_side(requests: Sequence[Inputs]) -> Inputs:
    """The inputs of requests as those of one: concatenated rows."""
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


def _respond_or_refuse(request: Any, arguments: ModelArguments, infer: Infer) -> Any:
    import triton_python_backend_utils as pb_utils

    try:
        return _respond([request], arguments, infer)[0]
    except Exception as exc:  # noqa: BLE001 - a request must not end the model
        reason = " ".join(str(exc).split())
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))


def _respond(requests: Sequence[Any], arguments: ModelArguments, infer: Infer) -> list[Any]:
    import triton_python_backend_utils as pb_utils

    wanted = [set(request.requested_output_names()) for request in requests]
    names = [name for name in arguments.outputs if any(name in some for some in wanted)]
    given = [{tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()} for request in requests]
    results = dict(zip(names, infer(given, names), strict=True))
    responses, start = [], 0
    for inputs, some in zip(given, wanted, strict=True):
        stop = start + len(next(iter(inputs.values())))
        rows = slice(start, stop) if len(requests) > 1 else slice(None)
        tensors = [_tensor(name, result[rows]) for name, result in results.items() if name in some]
        responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        start = stop
    return responses


def _tensor(name: str, array: Array) -> Any:
    """A `pb_utils.Tensor` of an array, handed over without a copy.

    Through DLPack, since the stub's own constructor yields empty tensors with numpy 2. The stub renames a capsule
    that it took in a way of its own, at which numpy's destructor complains on stderr; the standard's name ends that.
    """
    import triton_python_backend_utils as pb_utils

    capsule = array.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, USED)
    return tensor
