"""From a checkpoint to an ONNX graph with the project's interface."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from shrinkserve.artifact import tensors_sha256
from shrinkserve.exporting import graph, parity
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import CHECKPOINT, ONNX, StepState
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights, weights

OPSET = 20
"""What ONNX Runtime 1.17, OpenVINO 2024, TensorRT 10 and anything newer read."""


@dataclass(frozen=True)
class OnnxFromCheckpoint:
    """`torch.onnx.export` of the network behind its normalisation: one file, dynamic batch, clean names."""

    weights: Weights = "ema"
    name: str = "onnx"
    requires: StepState = CHECKPOINT
    ensures: StepState = ONNX
    tolerance: parity.Tolerance = parity.FLOAT32

    def parameters(self) -> dict[str, Any]:
        return {"opset": OPSET, "weights": self.weights, "exporter": f"torch {torch.__version__} (torch.export)"}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> dict[str, Any]:
        checkpoint = Checkpoint(source, weights=self.weights)
        digest = weights_sha256(checkpoint.module)
        model = from_network(checkpoint.module, checkpoint.preprocess)
        model.metadata_props.update(
            {
                "shrinkserve.weights": self.weights,
                "shrinkserve.weights_sha256": digest,
                "shrinkserve.contract": checkpoint.preprocess.fingerprint,
            }
        )
        graph.save(model, target)
        return {"weights_sha256": digest, "operators": graph.operators(model)}


def weights_sha256(network: nn.Module) -> str:
    """The hash that binds a checkpoint to what is made from it."""
    return tensors_sha256({name: value.numpy() for name, value in weights(network).items()})


class Deployed(nn.Module):
    """The network behind its normalisation: uint8 [N, S, S, 3] -> logits and probabilities, float32 [N, classes]."""

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
        if len(set(pairs)) == 1:  # one number is cheaper to spread over a picture than one a channel
            pairs = pairs[:1]
        self.scale = nn.Buffer(torch.tensor([1 / (255 * s) for _, s in pairs]).view(-1, 1, 1))
        self.shift = nn.Buffer(torch.tensor([-m / s for m, s in pairs]).view(-1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.to(torch.float32).permute(0, 3, 1, 2)  # TensorRT transposes no uint8
        logits = self.network(pixels * self.scale + self.shift)
        return logits, torch.softmax(logits, dim=1)


def from_network(network: nn.Module, preprocess: Preprocess) -> ir.Model:
    """Export a network: float [N, 3, S, S] -> logits [N, classes].

    Returns:
        `images` uint8 [batch, S, S, 3] -> `logits`, `probabilities` float32 [batch, classes], opset `OPSET`.
    """
    deployed = Deployed(network, preprocess).eval()
    # Two images: an example with one would make torch.export fix the batch at one.
    example = torch.zeros((2, preprocess.size, preprocess.size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), _quiet("torch.onnx"), _quiet("onnxscript"):
        warnings.simplefilter("ignore")  # torch warns about its own deprecations
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    _name_nodes(program.model)
    return program.model


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A logger that says nothing below an error for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _name_nodes(model: ir.Model) -> None:
    """Call nodes, weights and tensors by the node of the spec that they came from; drop the exporter's notes."""
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
    weight = node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if node.op_type in {"Conv", "Gemm"} and weight is not None:
        return weight.removesuffix(".weight")
    # The path of modules that led to the call, from the outermost (""), with the call itself at the end.
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
    module = scopes[-2].removeprefix("network.")
    return module or f"normalise.{node.op_type.lower()}" if node.op_type != "Softmax" else "probabilities"
