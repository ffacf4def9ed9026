"""Import of AutoShrink's ``.prototxt`` network files.

Two rules come from the reference implementation, not from the file. A separable convolution has the network's
activation between its two convolutions. The first tensor of an ``Add`` goes through a strided 1x1 convolution if its
shape differs from the second. Layer ``DAG_2_1/conv_left`` becomes ``stage2.cell1.conv_left.depthwise`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.arch.builder import Builder
from shrinkserve.arch.checks import join_messages, spec_problems
from shrinkserve.arch.prototxt import Layer, malformed, parse, read_bytes
from shrinkserve.arch.spec import Spec, input_node
from shrinkserve.errors import SpecError

CELL = re.compile(r"DAG_(\d+)_(\d+)/")
ACTIVATIONS = {"linear": None, "relu": "relu", "swish": "silu"}


@dataclass(frozen=True)
class NetworkFile:
    """Content of a network file.

    Attributes:
        name: of the model.
        spec: the network.
        classes: number of logits.
        input_size: height and width of the image.
        dropout: rate before the last layer.
        l2: strength of the regulariser, as ``l2 * sum(w^2)`` in the loss.
        label_smoothing: of the loss.
    """

    name: str
    spec: Spec
    classes: int
    input_size: int
    dropout: float
    l2: float
    label_smoothing: float


def read_network(path: Path, *, batch_norm_decay: float = 0.999) -> NetworkFile:
    """Import a network file.

    Args:
        path: the .prototxt file.
        batch_norm_decay: of the running statistics; it is not in the file.

    Raises:
        SpecError: cannot read the file, or it is invalid; names the line.
    """
    content = read_bytes(path)
    try:
        return import_network(content, batch_norm_decay=batch_norm_decay)
    except SpecError as exc:
        raise SpecError(f"{path}, {exc}") from None


def import_network(content: bytes, *, batch_norm_decay: float = 0.999) -> NetworkFile:
    """Import a network from the bytes of its file, see `read_network`."""
    layers = list(parse(content))
    # The reference networks have one activation besides "linear". Separable convolutions use it, too.
    used = [ACTIVATIONS[layer["activation"]] for layer in layers if "activation" in layer.values]
    net = _Import(next(filter(None, used), "relu"), batch_norm_decay)
    for layer in layers:
        net.read(layer)
    return net.finished(layers[-1].line)


class _Import:
    """Network built from the layers read so far."""

    def __init__(self, activation: str, batch_norm_decay: float) -> None:
        self.net = Builder(activation, batch_norm_decay)
        self.tensors: dict[str, str] = {}  # layer -> the node of its output
        self.labels: set[str] = set()
        self.lines: dict[str, int] = {}  # node -> the line of its layer
        self.last: dict[str, Layer] = {}  # section or key -> the last layer with it

    def read(self, layer: Layer) -> None:
        """Add one layer; raise a `SpecError` that names the line if it is invalid."""
        self._check_strength(layer)
        self.last |= dict.fromkeys((layer.kind, *layer.values), layer)
        sources = self._sources(layer)
        shape = layer.values.get("input_shape", [])
        if len(shape) == 1:
            self.labels.add(layer["name"])
        elif shape and shape[0] != shape[1]:
            raise malformed(layer.lines["input_shape"], "the image is not square", "equal height and width", shape)
        elif layer.kind in BLOCKS:
            self._add(layer, sources)

    def finished(self, line: int) -> NetworkFile:
        """Return the network after the last section, which starts at `line`."""
        if "Model" not in self.last or "Dense" not in self.last:
            raise malformed(line, "the network is incomplete", "a [Model] and a [Dense] section")
        if found := spec_problems(self.net.spec):
            raise SpecError(
                join_messages([f"line {self.lines.get(problem.node, line)}: {problem}" for problem in found])
            )
        spec = self.net.spec
        return NetworkFile(
            name=self.last["Model"]["name"],
            spec=spec,
            classes=self.last["Dense"]["units"],
            input_size=spec.nodes[input_node(spec)]["size"],
            dropout=self.last["Dropout"]["dropout"] if "Dropout" in self.last else 0.0,
            l2=self.last["regularizer_strength"]["regularizer_strength"],
            label_smoothing=self.last["SoftmaxLoss"]["label_smoothing"] if "SoftmaxLoss" in self.last else 0.0,
        )

    def _check_strength(self, layer: Layer) -> None:
        key = "regularizer_strength"  # a recipe has one for all layers
        if key in layer.values and key in self.last and layer[key] != self.last[key][key]:
            expected = f"{self.last[key][key]} as in line {self.last[key].lines[key]}"
            raise malformed(layer.lines[key], "layers have different regularizer strengths", expected, layer[key])

    def _sources(self, layer: Layer) -> list[str]:
        nodes = []
        for key, known in (("input", self.tensors), ("logits", self.tensors), ("labels", self.labels)):
            named = layer.values.get(key, [])
            for name in [named] if isinstance(named, str) else named:
                if name not in known:
                    wanted = "an [Input] of one dimension" if key == "labels" else "a layer defined above"
                    raise malformed(layer.lines[key], "unknown input layer", wanted, name)
                nodes.append(self.tensors.get(name, ""))
        return nodes

    def _add(self, layer: Layer, sources: list[str]) -> None:
        name = CELL.sub(r"stage\1.cell\2.", layer["name"]).replace("/", ".")
        if layer["name"] in self.tensors:
            raise malformed(layer.lines["name"], "two layers have this name", "a unique name", layer["name"])
        before = len(self.net.spec)
        try:
            node = BLOCKS[layer.kind](self.net, name, sources, layer)
        except SpecError as exc:
            raise malformed(layer.line, str(exc)) from None
        self.tensors[layer["name"]] = node
        self.lines |= dict.fromkeys(list(self.net.spec)[before:], layer.line)


def _image(net: Builder, name: str, _sources: list[str], layer: Layer) -> str:
    size, _, channels = layer["input_shape"]
    return net.add(name, "input", channels=channels, size=size)


def _convolution(net: Builder, name: str, sources: list[str], layer: Layer) -> str:
    block = net.separable if layer.kind == "SeparableConv" else net.convolution
    activation = ACTIVATIONS[layer["activation"]]
    return block(name, sources[0], layer["filters"], layer["kernel_size"], layer["strides"], activation)


def _max_pool(net: Builder, name: str, sources: list[str], layer: Layer) -> str:
    return net.add(name, "max_pool", *sources, kernel=layer["pool_size"], stride=layer["strides"])


def _residual(net: Builder, name: str, sources: list[str], _layer: Layer) -> str:
    if len(sources) != 2:
        raise SpecError(f"{name}: wrong number of inputs", expected=2, found=len(sources))
    return net.add(name, "add", net.shortcut(f"{name}_shortcut", *sources), sources[1])


def _dense(net: Builder, name: str, sources: list[str], layer: Layer) -> str:
    return net.add(name, "dense", *sources, units=layer["units"], bias=layer["use_bias"])


BLOCKS: Mapping[str, Callable[[Builder, str, list[str], Layer], str]] = {
    "Input": _image,
    "Convolutional": _convolution,
    "SeparableConv": _convolution,
    "MaxPool": _max_pool,
    "Concat": lambda net, name, sources, _: net.add(name, "concat", *sources),
    "Add": _residual,
    "GlobalAvgPool": lambda net, name, sources, _: net.add(name, "global_avg_pool", *sources),
    "Flatten": lambda _net, _name, sources, _layer: sources[0],  # the output of global_avg_pool is flat
    "Dropout": lambda net, name, sources, layer: net.add(name, "dropout", *sources, rate=layer["dropout"]),
    "Dense": _dense,
}
"""Section -> function that adds its operations. Other sections describe the loss and the metrics."""
