"""Export a checkpoint to an ONNX graph with the project's interface."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from shrinkserve.artifact import INPUT, tensors_sha256
from shrinkserve.exporting import graph, parity
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import CHECKPOINT, ONNX, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import TorchClassifier, weights
from shrinkserve.runtimes.metadata import to_metadata
from shrinkserve.runtimes.onnx import OUTPUTS
from shrinkserve.terminal import quiet

OPSET = 20
"""ONNX Runtime 1.17, OpenVINO 2024, TensorRT 10 and newer versions read it."""


@dataclass(frozen=True)
class OnnxFromCheckpoint:
    """`torch.onnx.export` of the network behind its normalisation: one file, dynamic batch, clean names.

    Args:
        checkpoint: the network with its weights.
    """

    checkpoint: TorchClassifier = field(repr=False)
    name: str = "onnx"
    requires: StepState = CHECKPOINT
    ensures: StepState = ONNX
    tolerance: parity.Tolerance = parity.FLOAT32

    def parameters(self) -> dict[str, object]:
        exporter = f"torch {torch.__version__} (torch.export)"
        return {"opset": OPSET, "weights": self.checkpoint.weights, "exporter": exporter}

    def run(self, _source: Path, target: Path, _samples: Samples, /) -> StepDetails:
        """Write the graph of the checkpoint."""
        checkpoint = self.checkpoint
        digest = module_sha256(checkpoint.module)
        model = from_network(checkpoint.module, checkpoint.preprocess)
        model.metadata_props.update(
            {
                "shrinkserve.weights": checkpoint.weights,
                "shrinkserve.weights_sha256": digest,
                "shrinkserve.contract": checkpoint.preprocess.fingerprint,
                **to_metadata(checkpoint.preprocess, checkpoint.classes),
            }
        )
        graph.save(model, target)
        return {"weights_sha256": digest, "operators": graph.operators(model)}


def module_sha256(network: nn.Module) -> str:
    """Return the hash that binds a checkpoint to its exports."""
    return tensors_sha256({name: value.numpy() for name, value in weights(network).items()})


class Deployed(nn.Module):
    """The network behind its normalisation: uint8 [N, S, S, 3] -> logits and probabilities, float32 [N, classes]."""

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        pairs = np.stack(preprocess.scale_and_shift())
        if (pairs == pairs[:, :1]).all():  # one number is cheaper to broadcast than one for each channel
            pairs = pairs[:, :1]
        self.scale, self.shift = (nn.Buffer(torch.from_numpy(row.copy()).view(-1, 1, 1)) for row in pairs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.to(torch.float32).permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        logits = self.network(pixels * self.scale + self.shift)
        return logits, torch.softmax(logits, dim=1)


def from_network(network: nn.Module, preprocess: Preprocess) -> ir.Model:
    """Return the ONNX graph of a network behind the normalisation of its preprocessing.

    Args:
        network: float images [N, 3, S, S] -> logits [N, classes].
        preprocess: gives the image size and the normalisation.

    Returns:
        `images` uint8 [batch, S, S, 3] -> `logits`, `probabilities` float32 [batch, classes], opset `OPSET`.
    """
    deployed = Deployed(network, preprocess).eval()
    # Two images: torch.export would fix the batch at one for an example of one.
    example = torch.zeros((2, *preprocess.shape), dtype=torch.uint8)
    with warnings.catch_warnings(), quiet("torch.onnx"), quiet("onnxscript"):
        warnings.simplefilter("ignore")  # torch warns about its own deprecations
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    _name_nodes(program.model)
    return program.model


def _name_nodes(model: ir.Model) -> None:
    """Name nodes, weights and tensors after their node in the spec; remove the exporter's metadata.

    Graph passes find stages by these names; cards name layers by them.
    """
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    for old in list(model.graph.initializers):
        model.graph.initializers[old].name = old.removeprefix("network.")
    for node in model.graph:
        name = _origin(node)
        node.name = name
        outputs = [value for value in node.outputs if not value.is_graph_output()]
        for position, value in enumerate(outputs):
            value.name = f"{name}.{position}" if position else name
        node.metadata_props.clear()
        node.doc_string = None
    graph.unique_names(model)


def _origin(node: ir.Node) -> str:
    """Return the name of the layer that a node computes, or of its part in `Deployed`."""
    weight = node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if node.op_type in {"Conv", "Gemm"} and weight is not None:
        return weight.removesuffix(".weight")
    # The path of modules of the call, from the outermost ("") to the call itself.
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
    module: str = scopes[-2].removeprefix("network.")
    if module:
        return module
    return "probabilities" if node.op_type == "Softmax" else f"normalise.{node.op_type.lower()}"
