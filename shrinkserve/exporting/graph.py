"""Load, save and name ONNX graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.artifact import Precision, tensors_sha256
from shrinkserve.atomic import write_atomic
from shrinkserve.containers import NEWEST_OPSET
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.runtimes.external_data import LARGEST, check_external_data
from shrinkserve.terminal import quiet

IR_VERSION = 10
"""Newest IR version that is written if the opset does not need a newer one: ONNX Runtime 1.18 and later load it."""
QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
    | {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm", "DynamicQuantizeLSTM"}
)

NARROW: Mapping[ir.DataType, Precision] = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def load(path: Path) -> ir.Model:
    """Read an ONNX file with all its weights, in the form that all passes expect.

    Inlines local functions, removes weights from the list of inputs, spells the standard domain ``""``, gives nodes
    and tensors unique names, and infers shapes.

    Raises:
        ArtifactError: missing, not an ONNX file, or weights outside its folder.
    """
    check_external_data(path)
    try:
        with quiet("onnx_ir"):
            model = ir.load(path)
            ir.external_data.load_to_model(model)
            _normalise(model)
    except Exception as exc:  # protobuf, onnx and onnx-ir each raise their own
        cause: BaseException = exc
        while cause.__cause__ is not None:  # onnx-ir names the function that failed first
            cause = cause.__cause__
        if isinstance(cause, NotImplementedError):  # sparse tensors, and maps, which sklearn-onnx returns
            reason = str(cause).split(".", maxsplit=1)[0]
            raise ArtifactError(f"{path}: {reason}", hint="export the network without them") from exc
        reason = str(cause).splitlines()[0].replace(str(path), path.name) if str(cause) else type(cause).__name__
        raise ArtifactError(f"{path}: not a readable ONNX model ({reason})", hint="export it again") from exc
    return model


def _normalise(model: ir.Model) -> None:
    versions = [model.opset_imports.pop(name) for name in ("", "ai.onnx") if name in model.opset_imports]
    if versions:
        model.opset_imports[""] = max(versions)
    if model.functions:
        common.InlinePass()(model)
        common.RemoveUnusedOpsetsPass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    _check_complete(model)
    common.TopologicalSortPass()(model)
    unique_names(model)
    infer_shapes(model)


def _check_complete(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                raise ValueError(f"{node.op_type} reads {value.name!r}, which is neither computed nor a dense weight")


def infer_shapes(model: ir.Model) -> None:
    """Infer the types and shapes of all tensors, as far as ONNX can; a failure leaves them unknown."""
    with quiet("onnx_ir"):
        common.ShapeInferencePass()(model)
    opset = model.opset_imports.get("", 0)
    for node in model.graph.all_nodes():
        made = node.outputs[0] if node.outputs else None
        if not node.domain and made and isinstance(made.type, ir.TensorType) and _makes_sequence(node.op_type, opset):
            made.type = made.shape = None  # onnx-ir takes it for a tensor


def _makes_sequence(op_type: str, opset: int) -> bool:
    try:
        types = onnx.defs.get_schema(op_type, opset).outputs[0].types
    except (onnx.defs.SchemaError, IndexError):
        return False
    return all(not name.startswith("tensor(") for name in types)


def forget_shapes(model: ir.Model) -> None:
    """Infer the shapes of all tensors without those that the file declares, apart from its inputs and outputs."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
    infer_shapes(model)


def raise_opset(model: ir.Model, wanted: int) -> None:
    """Convert a model to a newer opset in place, if it has an older one.

    Raises:
        ArtifactError: a node has no conversion.
    """
    found = model.opset_imports.get("", 0)
    if found >= wanted:
        return
    import onnxscript.version_converter  # half a second

    try:
        with quiet("onnxscript"), quiet("onnx_ir"):
            onnxscript.version_converter.convert_version(model, wanted, fallback=True)
    except Exception as exc:  # the converters of onnx and onnxscript each raise their own
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        what = f"the graph cannot be converted from opset {found} to {wanted} ({reason})"
        raise ArtifactError(what, hint=f"export the network with opset {wanted}") from exc
    if model.opset_imports.get("", 0) < wanted:  # onnxscript only logs that onnx cannot convert it
        raise ArtifactError(f"the graph cannot be converted from opset {found} to {wanted}")


def lower_opset(model: ir.Model) -> ir.Model:
    """Return a model converted to the newest opset that servers load, if it has a newer one.

    Raises:
        ArtifactError: a node has no form in that opset.
    """
    found = model.opset_imports.get("", 0)
    if found <= NEWEST_OPSET:
        return model
    try:  # onnxscript's converter only goes upwards
        lowered = onnx.version_converter.convert_version(ir.serde.serialize_model(model), NEWEST_OPSET)
    except Exception as exc:  # protobuf and the C++ converter each raise their own
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        newest = f"{NEWEST_OPSET}, the newest that servers load"
        what = f"the graph cannot be converted from opset {found} to {newest} ({reason})"
        raise ArtifactError(what, hint=f"export the network with opset {NEWEST_OPSET} or older") from exc
    converted = ir.serde.deserialize_model(lowered)
    converted.metadata_props.update(model.metadata_props)
    return converted


def save(model: ir.Model, path: Path) -> None:
    """Write one self-contained file atomically, with the oldest IR version that the opset allows.

    Raises:
        ConfigError: the model is too large for one file.
    """
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    needed = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    # Before version 4, all weights are inputs.
    model.ir_version = max(4, needed, min(model.ir_version, IR_VERSION))
    content = ir.serde.serialize_model(model)
    if (size := content.ByteSize()) > LARGEST:
        raise ConfigError(f"{path.name}: the model is too large", expected="below 2 GB", found=f"{size / 1e9:.1f} GB")
    write_atomic(path, content.SerializeToString(deterministic=True))


def operators(model: ir.Model) -> dict[str, int]:
    """Count the nodes of each operator, subgraphs included, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.all_nodes()).most_common())


def precision(model: ir.Model) -> Precision:
    """Return the precision that a graph computes in: float32, float16, bfloat16 or int8.

    A single tensor that is rounded counts. Weights that are stored in sixteen bits and read through a Cast do not.
    """
    if any(node.op_type in QUANTISED or node.op_type.startswith("QLinear") for node in model.graph.all_nodes()):
        return "int8"
    types = {value.dtype for node in model.graph.all_nodes() for value in node.outputs}
    narrow = [dtype for dtype in NARROW if dtype in types]
    return NARROW[narrow[0]] if narrow else "float32"


def weights_sha256(model: ir.Model) -> str:
    """Return a hash of all constants of a model, wherever the file keeps them."""
    return tensors_sha256(dict(_constants(model)))


def _constants(model: ir.Model) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    for number, graph in enumerate(model.graphs()):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield f"{number}/{name}", value.const_value.numpy()
        for node in graph:
            constant = ir.convenience.get_const_tensor(node.outputs[0]) if node.op_type == "Constant" else None
            if constant is not None:
                yield f"{number}/{node.outputs[0].name}", constant.numpy()
            for attribute in node.attributes.values() if node.domain else ():  # e.g. LinearClassifier's coefficients
                if attribute.type == ir.AttributeType.FLOATS:
                    yield f"{number}/{node.name}/{attribute.name}", np.array(attribute.as_floats(), np.float32)


class _ByOperator(common.naming.SimpleNameGenerator):
    """Names a node without a name after its operator."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type


def unique_names(model: ir.Model) -> None:
    """Give nodes and tensors that share a name a number: ``pool``, ``pool_1``, ...

    The names of inputs and outputs stay. Subgraphs do not reuse names of the graphs around them.
    """
    with quiet("onnx_ir"):
        common.NameFixPass(_ByOperator())(model)
