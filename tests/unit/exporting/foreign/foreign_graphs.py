"""Small classifiers of 32x32 images as ONNX graphs, for tests of foreign files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from shrinkserve.api import exporting

CASES = Path(__file__).parents[3] / "cases" / "export"
IMAGES = np.random.default_rng(3).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLASSES = 5

Floats = npt.NDArray[np.floating]


class Net:
    """A graph that grows node by node; its input is `x`."""

    def __init__(self, opset: int = 17) -> None:
        self.opset, self.rng = opset, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])]
        self.outputs: list[onnx.ValueInfoProto] = []

    def op(self, op_type: str, *inputs: str | npt.NDArray[np.generic], **attributes: object) -> str:
        """Add a node and return its first output; arrays become weights."""
        name = f"{op_type.lower()}{len(self.nodes)}"
        names = [self.weight(value) if isinstance(value, np.ndarray) else value for value in inputs]
        self.nodes.append(helper.make_node(op_type, names, [name], **attributes))
        return name

    def weight(self, array: npt.NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(array, f"weight{len(self.weights)}"))
        return self.weights[-1].name

    def normal(self, *shape: int) -> npt.NDArray[np.float32]:
        return self.rng.normal(size=shape).astype(np.float32)

    def conv(self, x: str, before: int, after: int, **attributes: object) -> str:
        return self.op("Conv", x, self.normal(after, before, 3, 3) / 3, self.normal(after), pads=[1] * 4, **attributes)

    def features(self) -> str:
        return self.pooled(self.op("Relu", self.conv("x", 3, 20)))

    def pooled(self, x: str) -> str:
        return self.op("Flatten", self.op("GlobalAveragePool", x))

    def logits(self, classes: int = CLASSES) -> str:
        return self.dense(self.features(), classes)

    def dense(self, x: str, classes: int = CLASSES) -> str:
        return self.op("Gemm", x, self.normal(20, classes), self.normal(classes))

    def out(self, name: str, shape: Sequence[int | str] = ("N", CLASSES), dtype: int = int(TensorProto.FLOAT)) -> Net:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return self

    def proto(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.weights, value_info=self.shapes)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)

    def save(self, folder: Path, metadata: Mapping[str, str] | None = None) -> Path:
        proto, path = self.proto(), folder / "net.onnx"
        helper.set_model_props(proto, dict(metadata or {}))
        onnx.save(proto, path)
        return path


def number(value: float) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def export(path: Path, classes: int = CLASSES, **options: object) -> exporting.ExportResult:
    """Export a file next to itself, with the preprocessing of the stored cases."""
    labels = path.parent / "labels.txt"
    labels.write_text("".join(f"class {index}\n" for index in range(classes)))
    given = {"preprocess": CASES / "pre.toml", "labels": labels, "max_batch": 8, **options}
    return exporting.export(onnx=path, repository=path.parent / "models", **given)  # type: ignore[arg-type]


def run_unchanged(path: Path, output: str | None = None) -> Floats:
    """Return an output of a file for each of `IMAGES` alone, by ONNX Runtime without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pixels = np.ascontiguousarray(((IMAGES / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2))
    name = output or session.get_outputs()[0].name
    rows = [session.run([name], {"x": pixels[i : i + 1]})[0] for i in range(len(pixels))]
    found: Floats = np.concatenate(rows).reshape(len(rows), -1).astype(np.float64)
    return found
