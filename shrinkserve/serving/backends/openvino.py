"""Triton's backend `openvino` in Python: run OpenVINO engines on a CPU.

It reads the parameters of NVIDIA's C++ backend of that name (github.com/triton-inference-server/openvino_backend,
README): `INFERENCE_NUM_THREADS`, `NUM_STREAMS`, `PERFORMANCE_HINT`, `HINT_BF16`; and also `INFERENCE_PRECISION_HINT`
and `ENABLE_CPU_PINNING`, which NVIDIA's does not read. NVIDIA's loads an engine only with `max_batch_size: 1`, since it
fixes the batch size. Two defaults differ from OpenVINO's: a graph is computed in its own precision (OpenVINO computes
float32 in bfloat16 if the CPU can), and threads are not bound to cores, as each instance would choose the same cores.
"""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov

from shrinkserve.runtimes.openvino import FixedBatches
from shrinkserve.serving.backends.arguments import ModelArguments, Tensors
from shrinkserve.serving.backends.batching import Array, Inputs, TritonRequest, TritonResponse, join_rows, respond
from shrinkserve.serving.backends.metrics import ExecutionTimes

TYPES = {
    "boolean": "TYPE_BOOL",
    **{f"{sign}{bits}": f"TYPE_{'U' * (sign == 'u')}INT{bits}" for sign in "iu" for bits in (8, 16, 32, 64)},
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}


class TritonPythonModel:
    """One instance of a model in OpenVINO's format or in ONNX."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the model. Triton shows an exception as the reason why the model cannot be loaded."""
        self._times = ExecutionTimes(args)
        self._arguments = ModelArguments.parse(args, "model.xml")
        self._batches = FixedBatches(self._arguments.file, properties(self._arguments))
        model, config = self._batches.model, self._arguments.config
        self._arguments.check("input", _tensors(model.inputs, {tensor["name"] for tensor in config["input"]}))
        self._arguments.check("output", _tensors(model.outputs, {tensor["name"] for tensor in config["output"]}))

    def execute(self, requests: Sequence[TritonRequest]) -> list[TritonResponse]:
        """Respond to the requests of one batch."""
        return respond(requests, self._arguments, self._infer, self._times)

    def _infer(self, requests: Sequence[Inputs], names: Sequence[str]) -> Sequence[Array]:
        results = self._batches.infer(join_rows(requests))
        return [results[name] for name in names]


def properties(arguments: ModelArguments) -> dict[str, str]:
    """Return OpenVINO's properties for the model's configuration.

    Raises:
        ValueError: a parameter that is not a number.
    """
    parameters = arguments.parameters
    precision = "bf16" if parameters.get("HINT_BF16") == "YES" else "f32"
    return {
        "INFERENCE_NUM_THREADS": str(arguments.threads("INFERENCE_NUM_THREADS")),
        "NUM_STREAMS": parameters.get("NUM_STREAMS", "1"),
        "PERFORMANCE_HINT": parameters.get("PERFORMANCE_HINT", "LATENCY"),
        "INFERENCE_PRECISION_HINT": parameters.get("INFERENCE_PRECISION_HINT", precision),
        "ENABLE_CPU_PINNING": parameters.get("ENABLE_CPU_PINNING", "NO"),
    }


def _tensors(ports: Sequence[ov.ConstOutput], wanted: set[str]) -> Tensors:
    """Return the tensors by the name in the configuration, if that is one of their names."""
    return {
        next(iter(wanted & port.get_names()), port.get_any_name()): (
            TYPES.get(port.element_type.get_type_name(), port.element_type.get_type_name()),
            [-1 if size.is_dynamic else size.get_length() for size in port.partial_shape],
        )
        for port in ports
    }
