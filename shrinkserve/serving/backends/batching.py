"""What our backends share: one run of a model for many requests, and the model's config as Triton hands it over.

Triton gives `execute` the requests that its scheduler put into one batch. Their tensors lie in shared memory and
are read in place (DLPack); a batch of one is not copied at all, a larger one once, to lie side by side.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
USED = ctypes.c_char_p(b"used_dltensor")
"""What the DLPack protocol calls a capsule that was taken."""
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

Infer = Callable[[dict[str, Array], list[str]], list[Array]]
"""Inputs by name and the names of the outputs that are wanted -> these outputs, row by row as the inputs."""


@dataclass(frozen=True)
class ModelArguments:
    """One instance of a model, from the dictionary that Triton gives `initialize`.

    Attributes:
        config: the model's config.
        file: the model file of the version that is loaded.
    """

    config: dict[str, Any]
    file: Path

    @classmethod
    def parse(cls, arguments: Mapping[str, str], default_file: str) -> ModelArguments:
        """Read Triton's dictionary; `default_file` is the file's name when the config gives none."""
        config = json.loads(arguments["model_config"])
        name = config.get("default_model_filename") or default_file
        return cls(config, Path(arguments["model_repository"]) / arguments["model_version"] / name)

    @property
    def inputs(self) -> list[str]:
        return [tensor["name"] for tensor in self.config["input"]]

    @property
    def outputs(self) -> list[str]:
        return [tensor["name"] for tensor in self.config["output"]]

    @property
    def instances(self) -> int:
        """How many instances of the model there are on this machine."""
        return max(1, sum(int(group["count"]) for group in self.config["instance_group"]))

    @property
    def parameters(self) -> dict[str, str]:
        return {key: value["string_value"] for key, value in self.config.get("parameters", {}).items()}

    def shape(self, tensor: Mapping[str, Any]) -> list[int]:
        """The shape that the model file has for a tensor of the config; -1 for any size."""
        dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
        return [-1] * (self.config["max_batch_size"] > 0) + [int(size) for size in dims]

    def whole_number(self, parameter: str, default: int) -> int:
        """A parameter that is a whole number of 0 or more.

        Raises:
            ValueError: it is something else.
        """
        text = self.parameters.get(parameter, str(default)).strip()
        if not text.isdecimal():
            raise ValueError(f"parameter {parameter}: expected a whole number, found {text!r}")
        return int(text)


def answer(requests: Sequence[Any], arguments: ModelArguments, infer: Infer) -> list[Any]:
    """Answer requests with one run of the model; if that fails, with a run each, so that only bad ones fail.

    Args:
        requests: `pb_utils.InferenceRequest`s.
        arguments: the model's instance.
        infer: runs the model.

    Returns:
        A `pb_utils.InferenceResponse` a request, in order.
    """
    if len(requests) > 1 and arguments.config["max_batch_size"] > 0:
        with suppress(Exception):  # whatever the runtime raises: the runs one by one will tell whose fault it is
            return _respond(requests, arguments, infer)
    return [_respond_or_refuse(request, arguments, infer) for request in requests]


def _respond_or_refuse(request: Any, arguments: ModelArguments, infer: Infer) -> Any:
    import triton_python_backend_utils as pb_utils

    try:
        return _respond([request], arguments, infer)[0]
    except Exception as fault:  # noqa: BLE001 - a request must not end the model
        reason = " ".join(str(fault).split())
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARGUMENT))


def _respond(requests: Sequence[Any], arguments: ModelArguments, infer: Infer) -> list[Any]:
    import triton_python_backend_utils as pb_utils

    wanted = [list(request.requested_output_names()) for request in requests]
    names = [name for name in arguments.outputs if any(name in some for some in wanted)]
    given = [{tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()} for request in requests]
    results = infer(_joined(given, arguments.inputs), names)
    responses, start = [], 0
    for inputs, some in zip(given, wanted, strict=True):
        stop = start + len(next(iter(inputs.values())))
        rows = slice(start, stop) if len(requests) > 1 else slice(None)
        tensors = [_tensor(name, result[rows]) for name, result in zip(names, results, strict=True) if name in some]
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


def _joined(given: Sequence[dict[str, Array]], names: Sequence[str]) -> dict[str, Array]:
    if len(given) == 1:
        return given[0]
    return {name: np.concatenate([inputs[name] for inputs in given]) for name in names}
