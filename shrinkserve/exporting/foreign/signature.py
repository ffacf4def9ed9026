"""Input and outputs of a foreign graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting.passes.nodes import Array, constant, is_operator
from shrinkserve.preprocess import Preprocess

Layout = Literal["NCHW", "NHWC"]

INPUT_TYPES = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.UINT8: np.uint8}
OUTPUT_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
RESHAPES = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})
"""Operators that change no value of a tensor [N, classes], only its shape or type."""
WEIGHTED = frozenset({"Gemm", "MatMul", "Conv"})
BOUNDED = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Exp", "Div", "Reciprocal"})
"""Operators of which a softmax or a sigmoid may consist."""
UNBOUNDED = frozenset(
    {"Relu", "LeakyRelu", "GlobalAveragePool", "AveragePool", "ReduceMean", "Add", "Sub", "Mul", "Sum"}
)
"""Operators that give no probabilities if they get none, as at the end of SqueezeNet."""
SHOWN = 4
"""Tensors that a message lists."""


@dataclass(frozen=True)
class Signature:
    """Input and candidate outputs of a foreign graph.

    Attributes:
        input: name of the image input.
        layout: order of its axes.
        dtype: its type; a uint8 graph normalises the pixels itself.
        channels: 1 or 3.
        outputs: names of the outputs that may hold the classes.
        linear: names of the outputs that a linear layer computes, also before ReLU and pooling: no probabilities,
            whatever their values.
    """

    input: str
    layout: Layout
    dtype: ir.DataType
    channels: int
    outputs: tuple[str, ...]
    linear: frozenset[str] = frozenset()

    @property
    def normalised(self) -> bool:
        """True if the graph expects normalised images, False for plain pixels."""
        return self.dtype != ir.DataType.UINT8

    def feed(self, pixels: Array) -> Array:
        """Return images [N, S, S, C] in the layout and the type of the input."""
        ordered = pixels.transpose(0, 3, 1, 2) if self.layout == "NCHW" else pixels
        return np.ascontiguousarray(ordered, INPUT_TYPES[self.dtype])


def read_signature(model: ir.Model, path: Path, preprocess: Preprocess, classes: Sequence[str]) -> Signature:
    """Return the signature of a graph that can be adapted to the project's interface.

    Args:
        model: the graph.
        path: its file, for messages.
        preprocess: gives the size and the channels of an image.
        classes: class names in the order of the logits.

    Raises:
        ArtifactError: names what does not fit: number, type, shape or layout of the inputs or outputs.
    """
    inputs = model.graph.inputs
    if len(inputs) != 1:
        what = "has several inputs" if inputs else "has no input"
        raise _error(path, what, "one image input", _shown(inputs) or "none")
    image = inputs[0]
    if image.dtype not in INPUT_TYPES or not isinstance(image.type, ir.TensorType):
        expected = ", ".join(dtype.name.lower() for dtype in INPUT_TYPES)
        raise _error(path, "input type", expected, _shown([image]))
    layout, channels = _layout(path, image, preprocess)
    computed = [value for value in model.graph.outputs if value.producer() is not None]
    outputs = [value for value in computed if _is_float(value) and not _is_sorted(value)]
    named = tuple(str(value.name) for value in outputs if _may_hold(value, len(classes)))
    if not named:
        hint = f"--labels has {len(classes)} names; it needs one name for each class, in the order of the logits"
        expected = f"a float output [N, {len(classes)}] in the order of the classes"
        raise _error(path, "has no output for the classes", expected, _shown(model.graph.outputs), hint)
    assert image.dtype is not None
    linear = frozenset(str(value.name) for value in outputs if _is_linear(value))
    return Signature(str(image.name), layout, image.dtype, channels, named, linear)


def _layout(path: Path, image: ir.Value, preprocess: Preprocess) -> tuple[Layout, int]:
    size = preprocess.size
    dims: list[int | None] = (
        [None] * 4 if image.shape is None else [n if isinstance(n, int) and n >= 0 else None for n in image.shape]
    )
    count = preprocess.channels
    expected = f"float32 [N, {count}, {size}, {size}] or [N, {size}, {size}, {count}]"
    if len(dims) != 4:
        raise _error(path, "input is not a batch of images", expected, _shown([image]))
    if dims[0] is not None:
        hint = 'export it with a dynamic batch, e.g. dynamic_axes={"input": {0: "batch"}}'
        raise _error(path, f"the batch is fixed at {dims[0]}", "a dynamic batch", _shown([image]), hint)
    layout: Layout = "NHWC" if dims[3] in {1, 3} and dims[1] not in {1, 3} else "NCHW"
    channels, height, width = (dims[1], dims[2], dims[3]) if layout == "NCHW" else (dims[3], dims[1], dims[2])
    if channels not in {None, preprocess.channels}:
        expected = f"{preprocess.channels}, for channel_order {preprocess.channel_order}"
        raise _error(path, f"input has {channels} channels", expected, _shown([image]))
    if height is not None and width is not None and height != width:
        raise _error(path, "input is not square", expected, _shown([image]))
    for found in (height, width):
        if found not in {None, size}:
            hint = f"set size = {found} in the preprocessing"
            raise _error(path, "image size differs from the preprocessing", f"{size} pixels", f"{found} pixels", hint)
    return layout, preprocess.channels


def _is_float(value: ir.Value) -> bool:
    """Return False for numbers of other types, and for sequences."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.dtype in OUTPUT_TYPES)


def _is_sorted(value: ir.Value) -> bool:
    """Return True for numbers in the order of their size, which tell nothing about the class."""
    return is_operator(_origin(value), "TopK")


def _is_linear(value: ir.Value) -> bool:
    """Return True if a weighted layer computes the output, and neither a softmax nor a sigmoid follows.

    A layer that reads a softmax is none: it merges classes. Nor is a sum with a softmax, e.g. of two networks.
    """
    waiting, seen, weighted = [value], {value}, False
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        values = [x for x in node.inputs if x is not None and x not in seen]
        scaled = is_operator(node, "Div") and constant(node.inputs[1]) is not None
        if is_operator(node, *BOUNDED) and not scaled:
            return False
        if is_operator(node, *WEIGHTED) and any(map(_is_softmax, values)):
            return False
        weighted = weighted or is_operator(node, *WEIGHTED)
        if scaled or is_operator(node, *RESHAPES, *UNBOUNDED):
            seen.update(values)
            waiting += values
    return weighted


def _is_softmax(value: ir.Value) -> bool:
    node = _origin(value)
    return is_operator(node, "Softmax") or (is_operator(node, "Div") and is_operator(_origin(node.inputs[0]), "Exp"))


def _origin(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes the values of a tensor."""
    node = None if value is None else value.producer()
    while node is not None and is_operator(node, *RESHAPES) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _may_hold(value: ir.Value, classes: int) -> bool:
    """Return False if the shape of an output excludes one number for each class, e.g. [N, 2048, 7, 7]."""
    if value.shape is None:
        return True
    rest = list(value.shape[1:])
    known = [n for n in rest if isinstance(n, int)]
    product = int(np.prod(known)) if known else 1
    if len(known) == len(rest):
        return bool(rest) and product == classes
    return product > 0 and classes % product == 0


def _shown(values: Sequence[ir.Value]) -> str:
    shown = [f"{v.name} {_type_name(v)} {v.shape or '?'}" for v in values[:SHOWN]]
    more = f", ... ({len(values)} in all)" if len(values) > SHOWN else ""
    return ", ".join(shown) + more


def _type_name(value: ir.Value) -> str:
    if value.dtype is None:
        return "?"
    sequence, optional = isinstance(value.type, ir.SequenceType), isinstance(value.type, ir.OptionalType)
    return f"{'sequence of ' * sequence}{'optional ' * optional}{value.dtype.name.lower()}"


def _error(path: Path, what: str, expected: str, found: str, hint: str | None = None) -> ArtifactError:
    return ArtifactError(f"{path}: {what}", expected=expected, found=found, hint=hint)
