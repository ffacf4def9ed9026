"""The step that gives a foreign graph the project's interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.artifact import INPUT
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.check import why_invalid
from shrinkserve.exporting.foreign.reference import LOWEST, ROUGH_LOWEST, ForeignModel
from shrinkserve.exporting.foreign.signature import RESHAPES, Signature
from shrinkserve.exporting.passes.editing import add_constant, insert
from shrinkserve.exporting.passes.nodes import attribute, constant
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import SameState, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.metadata import to_metadata
from shrinkserve.runtimes.onnx import OUTPUTS, OnnxModel


@dataclass(frozen=True)
class AdaptedOnnx(SameState):
    """Take pixels, normalise inside the graph, return `logits` and `probabilities`.

    Args:
        source: the foreign file and what is known of it.
        state: format and precision of the file.
    """

    source: ForeignModel = field(repr=False)
    state: StepState
    name: str = "adapt"

    def parameters(self) -> dict[str, object]:
        signature = self.source.signature
        return {
            "preprocess": self.source.preprocess.to_dict(),
            "input": f"{signature.input} {signature.dtype.name.lower()} {signature.layout}",
            "output": f"{self.source.output} ({self.source.meaning})",
        }

    def run(self, source: Path, target: Path, samples: Samples, /) -> StepDetails:
        """Write the adapted graph.

        The logits are the input of the softmax at the end of the graph. If there is no such node, or its input does
        not give the same probabilities, they are the logarithms of the probabilities. Sets `lowest` of the source.
        """
        for look_behind in (True, False):
            model = graph.lower_opset(graph.load(source))
            exact = adapt(model, self.source.signature, self.source.preprocess, self.source, look_behind=look_behind)
            rounds = self.state.precision != "float32"
            self.source.lowest = ROUGH_LOWEST if rounds or not exact else LOWEST
            model.metadata_props["shrinkserve.contract"] = self.source.preprocess.fingerprint
            model.metadata_props.update(to_metadata(self.source.preprocess, self.source.classes))
            graph.save(model, target)
            self._check(model, target, source)
            if not exact or self.source.meaning == "logits" or self._matches(target, samples):
                break
        return {"weights_sha256": graph.weights_sha256(graph.load(source)), "operators": graph.operators(model)}

    def _check(self, model: ir.Model, target: Path, source: Path) -> None:
        """Drop the shapes that the file declares, if they contradict its nodes.

        Raises:
            ArtifactError: the file is invalid, even if ONNX Runtime runs it.
        """
        if why_invalid(target) is None:
            return
        graph.forget_shapes(model)
        graph.save(model, target)
        if why_invalid(target) is not None and (reason := why_invalid(source)) is not None:
            raise ArtifactError(f"{source}: not a valid ONNX graph ({reason})", hint="export it again")

    def _matches(self, target: Path, samples: Samples) -> bool:
        images = samples.images[:4]
        found = OnnxModel(target).infer(images)
        differences = np.abs(found[OUTPUTS[1]] - self.source.rows(images))
        return bool(np.isfinite(found[OUTPUTS[0]]).all() and differences.max() <= self.tolerance.absolute)


def adapt(
    model: ir.Model, signature: Signature, preprocess: Preprocess, source: ForeignModel, *, look_behind: bool = True
) -> bool:
    """Change the interface of `model` in place; return False if the logits are logarithms of its probabilities.

    Args:
        model: a foreign graph.
        signature: its input and outputs.
        preprocess: gives the normalisation and the image size.
        source: gives the name and the meaning of the output.
        look_behind: use the input of the softmax that makes the probabilities.
    """
    take_pixels(model, signature, preprocess)
    exact = _return_logits(
        model, source.output, len(source.classes), is_logits=source.meaning == "logits", look_behind=look_behind
    )
    common.RemoveUnusedNodesPass()(model)
    graph.unique_names(model)
    graph.infer_shapes(model)
    return exact


def take_pixels(model: ir.Model, signature: Signature, preprocess: Preprocess) -> None:
    """Replace the input by `images` uint8 [batch, S, S, C] and put the normalisation before the graph."""
    old, first, size = model.graph.inputs[0], model.graph[0], preprocess.size
    shape = ir.Shape(["batch", size, size, signature.channels])
    images = ir.Value(name=INPUT, type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    x, planes = images, signature.layout == "NCHW"
    if signature.normalised:
        x = insert(first, "Cast", [x], "normalise.cast", {"to": int(ir.DataType.FLOAT)})
        x.type = ir.TensorType(ir.DataType.FLOAT)
    if planes:
        x = insert(first, "Transpose", [x], "normalise.transpose", {"perm": [0, 3, 1, 2]})
    if signature.normalised:
        across = (-1, 1, 1) if planes else (-1,)
        factors, offsets = preprocess.scale_and_shift()
        scale = add_constant(model.graph, "normalise.scale", factors.reshape(across))
        shift = add_constant(model.graph, "normalise.shift", offsets.reshape(across))
        x = insert(first, "Mul", [x, scale], "normalise.mul")
        x = insert(first, "Add", [x, shift], "normalise.add")
        if signature.dtype != ir.DataType.FLOAT:
            x = insert(first, "Cast", [x], "normalise.narrow", {"to": int(signature.dtype)})
            x.type = ir.TensorType(signature.dtype)
    ir.convenience.replace_all_uses_with(old, x)
    old.name = f"{old.name}.replaced"
    model.graph.inputs[0] = images


def _return_logits(model: ir.Model, name: str, classes: int, *, is_logits: bool, look_behind: bool) -> bool:
    output = next(value for value in model.graph.outputs if value.name == name)
    model.graph.outputs.clear()
    softmax = _softmax(output) if look_behind and not is_logits else None
    if is_logits or softmax is not None:
        found = output if softmax is None else softmax.inputs[0]
        assert found is not None
        logits = _matrix(model, found, "logits", classes)
    else:
        given = _matrix(model, output, "probabilities.given", classes)
        least = add_constant(model.graph, "logits.least", np.array(np.finfo(np.float32).tiny, np.float32))
        logits = _append(model, "Log", [_append(model, "Max", [given, least], "logits.clip")], "logits.log")
    # The file's own probabilities may sum to 1 only roughly, e.g. after a cast to float16.
    probabilities = _append(model, "Softmax", [logits], "probabilities", {"axis": 1})
    for value, wanted in zip((logits, probabilities), OUTPUTS, strict=True):
        value.name, value.type = wanted, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(["batch", classes])
    model.graph.outputs.extend([logits, probabilities])
    return is_logits or softmax is not None


def _softmax(output: ir.Value) -> ir.Node | None:
    """Return the Softmax that makes the probabilities, behind nodes that change no value."""
    node = output.producer()
    while node is not None and node.domain == "" and node.op_type != "Softmax":
        value = node.inputs[0] if node.op_type in RESHAPES or _clips_nothing(node) else None
        node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" else None


def _clips_nothing(node: ir.Node) -> bool:
    """Return True for a Clip that leaves all values of [0, 1]."""
    if node.op_type != "Clip":
        return False
    low, high = attribute(node, "min", 0), attribute(node, "max", 1)  # attributes before opset 11
    if len(node.inputs) > 1:
        limits = [constant(value) for value in node.inputs[1:]]
        low, high = (limits[i] if i < len(limits) and node.inputs[i + 1] is not None else i for i in (0, 1))
    return low is not None and high is not None and bool(low <= 0) and bool(high >= 1)


def _matrix(model: ir.Model, value: ir.Value, name: str, classes: int) -> ir.Value:
    """Return `value` as float32 [N, classes], through a node if it is not already."""
    if value.shape is None or len(value.shape) != 2 or value.shape[1] != classes:
        value = _append(model, "Flatten", [value], f"{name}.flatten", {"axis": 1})
    if value.dtype != ir.DataType.FLOAT:
        value = _append(model, "Cast", [value], f"{name}.cast", {"to": int(ir.DataType.FLOAT)})
        value.type = ir.TensorType(ir.DataType.FLOAT)
    if value.is_graph_output() or value.producer() is None:
        value = _append(model, "Identity", [value], f"{name}.same")
    return value


def _append(
    model: ir.Model, op_type: str, inputs: list[ir.Value], name: str, attributes: dict[str, int] | None = None
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes or {}, name=name)
    node.outputs[0].name, node.outputs[0].type = name, inputs[0].type
    model.graph.append(node)
    return node.outputs[0]
