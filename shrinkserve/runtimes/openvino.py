"""An exported graph in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.predictor import Images, Logits, described

Hint = Literal["f32", "bf16"]
Arrays = Mapping[str, npt.NDArray[Any]]

HINTS: Mapping[str, Hint] = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""What a graph of a precision may be computed in. What an eight-bit graph keeps between its eight-bit layers, the sums
above all, is half as large in bfloat16: a tenth of the time. A CPU without bfloat16 computes in float32."""
BATCHES: Mapping[Hint | Literal["int8"], tuple[int, ...]] = {"f32": (2, 1), "bf16": (4, 1), "int8": (8, 4, 1)}
"""Sizes that a graph is compiled for, by what flows between its layers: the larger the values, the fewer images stay in
the caches. For ShrinkCNN-A at 224x224 the largest of each is 3 to 17 % faster an image than 1, and 6 to 13 % than twice
its size."""


@cache
def shared_core() -> Any:
    """The process's `openvino.Core`.

    One, and never ended: each that compiles for the CPU gives the thread another stack for its signal handlers, and
    two that end in the order in which they began leave the thread with the one that is gone: the next signal is fatal.
    """
    import openvino

    return openvino.Core()


class FixedBatches:
    """A graph compiled for a few sizes of a batch (`BATCHES`), which any other is cut into.

    With shapes that it knows, OpenVINO plans memory and kernels once, and not again at every layer of every answer. A
    graph that is dynamic in more than its batch is compiled as it is.

    Args:
        path: an .onnx or .xml file.
        properties: OpenVINO's, for the CPU.

    Attributes:
        model: the graph as the file has it.
        sizes: of the batches, descending; 0 where it is compiled as it is.

    Raises:
        RuntimeError: OpenVINO cannot load it.
    """

    def __init__(self, path: Path, properties: Mapping[str, Any]) -> None:
        core = shared_core()
        self.model = core.read_model(str(path))
        self._requests: dict[int, Any] = {}
        shapes = {port.get_any_name(): port.partial_shape for port in self.model.inputs}
        fixed = all(_only_batch_is_dynamic(shape) for shape in shapes.values())
        self.sizes = BATCHES[_between_layers(self.model, properties)] if fixed else (0,)
        for size in self.sizes:
            model = self.model.clone()
            if size:
                model.reshape({name: [size, *list(shape)[1:]] for name, shape in shapes.items()})
            self._requests[size] = core.compile_model(model, "CPU", dict(properties)).create_infer_request()

    def infer(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The outputs by name; their memory is the caller's."""
        if 0 in self._requests:
            return _named(self._requests[0].infer(dict(inputs), share_inputs=True))
        rows, start, parts = len(next(iter(inputs.values()))), 0, []
        for size, request in self._requests.items():
            while rows - start >= size:
                part = {name: array[start : start + size] for name, array in inputs.items()}
                parts.append(_named(request.infer(part, share_inputs=True)))
                start += size
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _between_layers(model: Any, properties: Mapping[str, Any]) -> Hint | Literal["int8"]:
    if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
        return "int8"
    return "bf16" if properties.get("INFERENCE_PRECISION_HINT") == "bf16" else "f32"


def _only_batch_is_dynamic(shape: Any) -> bool:
    return bool(len(shape)) and shape[0].is_dynamic and not any(size.is_dynamic for size in list(shape)[1:])


def _named(results: Any) -> dict[str, npt.NDArray[Any]]:
    return {port.get_any_name(): array for port, array in results.items()}


class OpenVinoModel:
    """An `Answerer` that is an ONNX file with the project's interface.

    Args:
        path: the .onnx file.
        threads: threads that compute one answer; None for OpenVINO's choice.
        precision: what the CPU may compute in: OpenVINO casts a float32 graph to bfloat16 itself.

    Raises:
        ArtifactError: missing, or not a model that OpenVINO can load.
    """

    def __init__(self, path: Path, threads: int | None = None, precision: Hint = "f32") -> None:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file", hint="name a .onnx file that `export` wrote")
        properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": "NO",  # every model would pin its first thread to the same core
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            self.batches = FixedBatches(path, properties)
        except RuntimeError as exc:
            reason = str(exc).strip().splitlines()[-1]
            raise ArtifactError(f"{path}: OpenVINO cannot load it ({reason})", hint="export the model again") from exc
        self.path, self.precision = path, precision
        self.size = int(self.batches.model.input("images").partial_shape[1].get_length())
        count = int(self.batches.model.output("logits").partial_shape[1].get_length())
        self.classes, self.preprocess = described(path, count)

    @property
    def name(self) -> str:
        return f"{self.path} (OpenVINO {self.precision})"

    def predict(self, images: Images) -> Logits:
        return self.batches.infer({"images": images})["logits"]
