"""Any image classifier in ONNX: given the project's interface, and judged against itself as it came."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.exporting import graph, parity
from shrinkserve.exporting.passes.editing import add_constant, insert
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import INPUT, OUTPUTS, open_session
from shrinkserve.runtimes.predictor import Images, Logits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class AdaptedOnnx:
    """Pixels in, normalisation inside, `logits` and `probabilities` out."""

    preprocess: Preprocess
    name: str = "adapt"
    requires: StepState = ONNX
    ensures: StepState = ONNX
    tolerance: parity.Tolerance = parity.FLOAT32

    def parameters(self) -> dict[str, Any]:
        return {"preprocess": self.preprocess.to_dict()}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> dict[str, Any]:
        model = graph.load(source)
        _take_pixels(model, self.preprocess)
        _give_logits(model)
        graph.unique_names(model)  # by which later steps tell layers apart
        graph.save(model, target)
        return {"operators": graph.operators(model)}


class ForeignModel:
    """An `Answerer` that is the file as it came, without the softmax that it may end in.

    Args:
        path: float32 [N, 3, S, S] -> logits or probabilities float32 [N, classes].
        preprocess: the normalisation, applied here in numpy.
        classes: names in the order of the logits.
    """

    def __init__(self, path: Path, preprocess: Preprocess, classes: Sequence[str]) -> None:
        self.path, self.preprocess, self.classes, self.size = path, preprocess, classes, preprocess.size
        model = graph.load(path)
        self.input = str(model.graph.inputs[0].name)
        if (softmax := _softmax(model)) is not None and softmax.inputs[0] is not None:
            model.graph.outputs[0] = softmax.inputs[0]
        with tempfile.TemporaryDirectory(prefix="shrinkserve-foreign-") as folder:
            graph.save(model, Path(folder) / path.name)
            self.session = open_session(Path(folder) / path.name)

    @property
    def name(self) -> str:
        return f"{self.path} (as it came)"

    def predict(self, images: Images) -> Logits:
        mean, std = (np.array(values, np.float32) for values in (self.preprocess.mean, self.preprocess.std))
        pixels = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        logits: Logits = self.session.run(None, {self.input: np.ascontiguousarray(pixels, np.float32)})[0]
        return logits


def read_preprocess(path: Path) -> Preprocess:
    """Read a TOML file with the keys of `Preprocess`: size, crop_fraction, interpolation, mean, std.

    Raises:
        ConfigError: not readable, or a key that is unknown, of another type or out of its range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})", hint="check --preprocess") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: not a readable TOML file ({exc})", hint="mend the line it names") from exc
    known = [field.name for field in fields(Preprocess)]
    if unknown := sorted(set(raw) - set(known)):
        raise ConfigError(f"{path}: unknown keys", expected=", ".join(known), found=", ".join(unknown))
    from pydantic import TypeAdapter, ValidationError

    try:
        preprocess = TypeAdapter(Preprocess).validate_python(raw)
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise ConfigError(f"{path}: {faults}", hint="mend the keys it names") from exc
    try:
        return Preprocess.from_dict(preprocess.to_dict())
    except DataError as exc:
        raise ConfigError(f"{path}: out of range ({exc.what})", expected=exc.expected, found=exc.found) from exc


def read_labels(path: Path) -> list[str]:
    """Read class names, one a line in the order of the logits.

    Raises:
        DataError: not readable, or without a name.
    """
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror})", hint="check --labels") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not a list of labels ({exc})", hint="give a text file in UTF-8") from exc
    if not labels:
        raise DataError(f"{path}: no labels", expected="one class name a line")
    return labels


def check_interface(path: Path, preprocess: Preprocess, classes: Sequence[str]) -> None:
    """Refuse a graph that is not a classifier of float32 [N, 3, S, S] images into `classes`.

    Raises:
        ArtifactError: what was expected of the input or the output, and what the graph has.
    """
    model = graph.load(path)
    inputs, outputs = model.graph.inputs, model.graph.outputs
    size = preprocess.size
    found = f"{[(v.name, str(v.dtype), str(v.shape)) for v in (*inputs, *outputs)]}"
    wanted = f"one input float32 [N, 3, {size}, {size}] and one output float32 [N, {len(classes)}]"
    shapes_fit = len(inputs) == len(outputs) == 1 and all(
        value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == len(shape)
        and all(not isinstance(n, int) or n == m for n, m in zip(value.shape[1:], shape[1:], strict=True))
        for value, shape in ((inputs[0], (None, 3, size, size)), (outputs[0], (None, len(classes))))
    )
    if not shapes_fit:
        raise ArtifactError(
            f"{path}: another interface", expected=wanted, found=found, hint="check --preprocess, --labels"
        )
    if isinstance(inputs[0].shape and inputs[0].shape[0], int):
        raise ArtifactError(f"{path}: a fixed batch", expected="a dynamic one", found=found, hint="export it anew")


def _take_pixels(model: ir.Model, preprocess: Preprocess) -> None:
    old = model.graph.inputs[0]
    first = next(iter(model.graph))
    size = preprocess.size
    images = ir.Value(name=INPUT, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["batch", size, size, 3]))
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    scale = add_constant(model.graph, "normalise.scale", (1 / (255 * std)).reshape(3, 1, 1))
    shift = add_constant(model.graph, "normalise.shift", (-mean / std).reshape(3, 1, 1))
    x = insert(first, "Cast", [images], "normalise.cast", {"to": int(ir.DataType.FLOAT)})
    x.type = ir.TensorType(ir.DataType.FLOAT)
    x = insert(first, "Transpose", [x], "normalise.transpose", {"perm": [0, 3, 1, 2]})
    x = insert(first, "Mul", [x, scale], "normalise.mul")
    x = insert(first, "Add", [x, shift], "normalise.add")
    x.shape = ir.Shape(["batch", 3, size, size])
    ir.convenience.replace_all_uses_with(old, x)
    model.graph.inputs[0] = images


def _give_logits(model: ir.Model) -> None:
    output = model.graph.outputs[0]
    softmax = _softmax(model)
    if softmax is None:
        last = list(model.graph)[-1]
        node = ir.node("Softmax", [output], {"axis": 1}, name="probabilities")
        model.graph.insert_after(last, node)
        logits, probabilities = output, node.outputs[0]
    else:
        logits, probabilities = softmax.inputs[0], output  # type: ignore[assignment]
    assert logits is not None
    logits.name, probabilities.name = OUTPUTS
    probabilities.type, probabilities.shape = logits.type, logits.shape
    model.graph.outputs[:] = [logits, probabilities]


def _softmax(model: ir.Model) -> ir.Node | None:
    node = model.graph.outputs[0].producer()
    return node if node is not None and node.op_type == "Softmax" else None
