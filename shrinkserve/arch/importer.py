"""A spec from AutoShrink's ``.prototxt`` network file.

What the file leaves unsaid, its reference implementation decides: a separable convolution has the network's activation
between its halves, and the first tensor of an ``Add`` passes a strided 1x1 convolution where its shape is not that of
the second. Layer ``DAG_2_1/conv_left`` becomes the nodes ``stage2.cell1.conv_left.depthwise`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.arch.builder import Builder
from shrinkserve.arch.checks import listed, problems
from shrinkserve.arch.prototxt import Layer, malformed, parse, read_bytes
from shrinkserve.arch.spec import Spec, input_node
from shrinkserve.errors import SpecError

CELL = re.compile(r"DAG_(\d+)_(\d+)/")
ACTIVATIONS = {"linear": None, "relu": "relu", "swish": "silu"}


@dataclass(frozen=True)
class NetworkFile:
    """What a network file says.

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
        batch_norm_decay: of the running statistics, which the file does not say.

    Raises:
        SpecError: the file cannot be read, or with the line's number, what was expected and what was found.
    """
    content = read_bytes(path)
    try:
        return import_network(content, batch_norm_decay=batch_norm_decay)
    except SpecError as exc:
        raise SpecError(f"{path}, {exc}") from None


def import_network(content: bytes, *, batch_norm_decay: float = 0.999) -> NetworkFile:
    """`read_network` from the file's bytes."""
    layers = list(parse(content))
    # The reference networks have one activation besides "linear"; it is also the one inside separable convolutions.
    used = [ACTIVATIONS[layer["activation"]] for layer in layers if "activation" in layer.values]
    net = _Import(next(filter(None, used), "relu"), batch_norm_decay)
    for layer in layers:
        net.read(layer)
    return net.finished(layers[-1].line)


class _Import:
    """The network as far as the file has been read."""

    def __init__(self, activation: str, batch_norm_decay: float) -> None:
        self.net = Builder(activation, batch_norm_decay)
        self.tensors: dict[str, str] = {}  # layer -> the node that gives its answer
        self.labels: set[str] = set()
        self.lines: dict[str, int] = {}  # node -> the line of its layer
        self.last: dict[str, Layer] = {}  # section or key -> the last layer that has it

    def read(self, layer: Layer) -> None:
        """Add one layer; raises `SpecError` with a line's number."""
        self._check_strength(layer)
        self.last |= dict.fromkeys((layer.kind, *layer.values), layer)
        sources = self._sources(layer)
        shape = layer.values.get("input_shape", [])
        if len(shape) == 1:
            self.labels.add(layer["name"])
        elif shape and shape[0] != shape[1]:
            raise malformed(layer.lines["input_shape"], "not a square image", "one height and width", shape)
        elif layer.kind in BLOCKS:
            self._add(layer, sources)

    def finished(self, line: int) -> NetworkFile:
        """The whole, when it holds together; `line` is the last section's."""
        if "Model" not in self.last or "Dense" not in self.last:
            raise malformed(line, "the network is not complete", "a [Model] and a [Dense] section")
        if found := problems(self.net.spec):
            raise SpecError(listed([f"line {self.lines.get(error.node, line)}: {error}" for error in found]))
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
        key = "regularizer_strength"  # one for the whole network, in a recipe
        if key in layer.values and key in self.last and layer[key] != self.last[key][key]:
            expected = f"{self.last[key][key]} as in line {self.last[key].lines[key]}"
            raise malformed(layer.lines[key], "another strength of the regulariser", expected, layer[key])

    def _sources(self, layer: Layer) -> list[str]:
        nodes = []
        for key, known in (("input", self.tensors), ("logits", self.tensors), ("labels", self.labels)):
            named = layer.values.get(key, [])
            for name in [named] if isinstance(named, str) else named:
                if name not in known:
                    wanted = "an [Input] of one dimension" if key == "labels" else "one that is defined before"
                    raise malformed(layer.lines[key], "reads from a layer that is not there", wanted, name)
                nodes.append(self.tensors.get(name, ""))
        return nodes

    def _add(self, layer: Layer, sources: list[str]) -> None:
        name = CELL.sub(r"stage\1.cell\2.", layer["name"]).replace("/", ".")
        if layer["name"] in self.tensors:
            raise malformed(layer.lines["name"], "another layer has this name", "a new one", layer["name"])
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
        raise SpecError(f"{name}: adds another number of tensors", expected=2, found=len(sources))
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
    "Flatten": lambda _net, _name, sources, _layer: sources[0],  # global_avg_pool leaves channels alone already
    "Dropout": lambda net, name, sources, layer: net.add(name, "dropout", *sources, rate=layer["dropout"]),
    "Dense": _dense,
}
"""Section -> the operations that it stands for; the others describe the loss and the report."""
