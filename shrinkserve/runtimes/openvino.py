"""ONNX graphs in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import INPUT, LOGITS
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.external_data import check_external_data
from shrinkserve.runtimes.predictor import Images, Logits, check_images, describe_file

if TYPE_CHECKING:
    import openvino

Hint = Literal["f32", "bf16"]
Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]
Properties = Mapping[str, str | int]

HINTS: Mapping[str, Hint] = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""Precision of a graph -> OpenVINO's inference precision. In an int8 graph the tensors between int8 layers, mainly the
sums, are half as large in bfloat16, which saves 10 % of the time. A CPU without bfloat16 computes in float32."""
BATCHES: Mapping[Hint | Literal["int8"], tuple[int, ...]] = {"f32": (2, 1), "bf16": (4, 1), "int8": (8, 4, 1)}
"""Batch sizes to compile for, by the type of the tensors between layers. Fewer images of a larger type fit into the
caches. For ShrinkCNN-A at 224x224 the largest size of each type is 3 to 17 % faster per image than 1, and 6 to 13 %
faster than twice the size."""


@cache
def shared_core() -> openvino.Core:
    """Return a process-wide Core that is never destroyed.

    Each Core installs an alternate signal stack on the compiling thread. Destroying two of them in creation order
    leaves a dangling stack, and the next signal crashes the process.
    """
    import openvino

    return openvino.Core()


class FixedBatches:
    """A graph compiled for a few batch sizes (`BATCHES`); other batches are split into these.

    With fixed shapes, OpenVINO plans memory and kernels once instead of at every layer of every request. A graph with
    more dynamic dimensions than the batch is compiled with its dynamic shapes.

    Args:
        path: an .onnx or .xml file.
        properties: of OpenVINO, for the CPU.

    Attributes:
        model: the graph of the file.
        sizes: batch sizes in descending order; 0 for dynamic shapes.

    Raises:
        RuntimeError: OpenVINO cannot load it.
    """

    def __init__(self, path: Path, properties: Properties) -> None:
        core = shared_core()
        self.model = core.read_model(str(path))
        self._requests: dict[int, openvino.InferRequest] = {}
        shapes = {port.get_any_name(): port.partial_shape for port in self.model.inputs}
        fixed = all(_only_batch_is_dynamic(shape) for shape in shapes.values())
        self.sizes = BATCHES[_between_layers(self.model, properties)] if fixed else (0,)
        for size in self.sizes:
            model = self.model.clone()
            if size:
                model.reshape({name: [size, *list(shape)[1:]] for name, shape in shapes.items()})
            self._requests[size] = core.compile_model(model, "CPU", dict(properties)).create_infer_request()

    def infer(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by each of their names, in arrays that the caller owns."""
        if 0 in self._requests:
            return self._named(self._requests[0].infer(dict(inputs), share_inputs=True).values())
        rows, start, parts = len(next(iter(inputs.values()))), 0, []
        for size, request in self._requests.items():
            while rows - start >= size:
                part = {name: array[start : start + size] for name, array in inputs.items()}
                parts.append(list(request.infer(part, share_inputs=True).values()))
                start += size
        return self._named(map(np.concatenate, zip(*parts, strict=True)))

    def _named(self, arrays: Iterable[Array]) -> dict[str, Array]:
        """Return arrays by name; OpenVINO removes nodes that change nothing and keeps the names of both sides."""
        ports = self.model.outputs
        return {name: array for port, array in zip(ports, arrays, strict=True) for name in port.get_names()}


def _between_layers(model: openvino.Model, properties: Properties) -> Hint | Literal["int8"]:
    if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        return "int8"
    return "bf16" if properties.get("INFERENCE_PRECISION_HINT") == "bf16" else "f32"


def _only_batch_is_dynamic(shape: openvino.PartialShape) -> bool:
    return bool(len(shape)) and shape[0].is_dynamic and not any(size.is_dynamic for size in list(shape)[1:])


class OpenVinoModel:
    """A `Predictor` that runs an exported ONNX file in OpenVINO.

    Args:
        path: the .onnx file.
        threads: threads that compute one prediction; None for OpenVINO's choice.
        precision: of the arithmetic; OpenVINO converts a float32 graph to bfloat16 itself.

    Raises:
        ArtifactError: the file is missing, or OpenVINO cannot load it.
    """

    def __init__(self, path: Path, threads: int | None = None, precision: Hint = "f32") -> None:
        check_external_data(path)
        properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": "NO",  # each model would pin its first thread to the same core
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            self.batches = FixedBatches(path, properties)
        except RuntimeError as exc:
            raise ArtifactError(f"{path}: OpenVINO cannot load it ({_reason(exc, path)})") from exc
        self.path, self.precision = path, precision
        self.size = int(self.batches.model.input(INPUT).partial_shape[1].get_length())
        count = int(self.batches.model.output(LOGITS).partial_shape[1].get_length())
        self.classes, self.preprocess = describe_file(path, count)

    @property
    def name(self) -> str:
        return f"{self.path} (OpenVINO {self.precision})"

    def __repr__(self) -> str:
        return f"OpenVinoModel({str(self.path)!r}, size={self.size}, classes={len(self.classes)})"

    def predict(self, images: Images) -> Logits:
        check_images(images, self.size)
        try:
            return self.batches.infer({INPUT: images})[LOGITS].astype(np.float32, copy=False)
        except RuntimeError as exc:
            reason = _reason(exc, self.path)
            raise ArtifactError(f"{self.path}: OpenVINO cannot run a batch of {len(images)} ({reason})") from exc


def _reason(error: RuntimeError, path: Path) -> str:
    return str(error).strip().splitlines()[-1].replace(str(path), path.name)
