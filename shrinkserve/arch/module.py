"""A spec compiled to torch.

The module is a `torch.fx.GraphModule`: one call a node in topological order, as straight-line Python (see
``Network.code``) that drops each tensor after its last reader. Nothing is decided in ``forward`` but the padding of
strided convolutions, which is a constant at a fixed size; so the module traces under `torch.export`, compiles under
`torch.compile`, and runs at any input size in either memory format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from shrinkserve.arch.checks import check
from shrinkserve.arch.shapes import infer, same_padding
from shrinkserve.arch.spec import Spec, inputs, order, output_node
from shrinkserve.errors import SpecError


class Network(fx.GraphModule):
    """The compiled network: float images [N, 3, H, W] -> logits [N, classes].

    Dots in node names become nested modules, so the keys of the state dict are ``<node>.<tensor>``.
    """


def compile_spec(spec: Spec) -> Network:
    """Compile a network and initialise its weights from torch's default random generator.

    Raises:
        SpecError: the network does not hold together, or a node's name is an attribute of `torch.nn.Module`.
    """
    check(spec)
    shapes = infer(spec)
    graph = fx.Graph()
    values: dict[str, fx.Node] = {}
    modules: dict[str, nn.Module] = {}
    for name in order(spec):
        sources = inputs(spec, name)
        attributes = spec.nodes[name]
        if attributes["op"] == "input":
            values[name] = graph.placeholder("images")
            continue
        _refuse_reserved(name)
        channels = shapes[sources[0]][0]
        modules[name] = MODULES[attributes["op"]](channels, attributes)
        values[name] = graph.call_module(name, tuple(values[source] for source in sources))
    graph.output(values[output_node(spec)])
    graph.lint()
    network = Network(modules, graph, class_name="Network")
    initialise(network)
    return network


def initialise(network: nn.Module) -> None:
    """ShrinkCNN's initialisation.

    Convolutions: variance scaling with scale 2 over the fan-out, a normal distribution cut at two standard deviations
    as TensorFlow's (``tf.variance_scaling_initializer``). Dense: normal, standard deviation 0.01. Biases: 0. Batch
    norm: scale 1, shift 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            deviation = math.sqrt(2 / fan_out) / CUT_NORMAL_DEVIATION
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


CUT_NORMAL_DEVIATION = 0.87962566103423978
"""Standard deviation of a standard normal distribution cut at ±2."""


class SameConv2d(nn.Conv2d):
    """Convolution whose SAME padding depends on the size: [N, C, H, W] -> [N, F, ceil(H / s), ceil(W / s)]."""

    def forward(self, x: Tensor) -> Tensor:
        above, below = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        padding = (above, left)
        if (above, left) != (below, right):
            x, padding = functional.pad(x, (left, right, above, below)), (0, 0)
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class SameMaxPool2d(nn.Module):
    """Pool with SAME padding: [N, C, H, W] -> [N, C, ceil(H / s), ceil(W / s)]; what is padded never wins."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        above, below = same_padding(x.shape[2], self.kernel, self.stride)
        left, right = same_padding(x.shape[3], self.kernel, self.stride)
        # A window that hangs over the end is what the one row more after the image amounts to.
        over = (above, left) != (below, right)
        return functional.max_pool2d(x, self.kernel, self.stride, (above, left), ceil_mode=over)


class Concat(nn.Module):
    """Joins the channels."""

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.training and not torch.compiler.is_compiling():
            return _ConcatOfWholeGradients.apply(*tensors)  # type: ignore[no-any-return,no-untyped-call]
        return torch.cat(tensors, dim=1)


class _ConcatOfWholeGradients(torch.autograd.Function):
    """`torch.cat`, whose gradients are tensors of their own rather than slices of one.

    On a CPU batch norm and activations take slices by a path that is three to five times slower: with half of the
    network's batch norms before a concat, copying the slices makes an update a fifth faster (``bench/training.py``).
    """

    @staticmethod
    def forward(context: Any, *tensors: Tensor) -> Tensor:
        context.channels = [tensor.shape[1] for tensor in tensors]
        return torch.cat(tensors, dim=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        last = gradient.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        parts = torch.split(gradient, context.channels, dim=1)
        return tuple(part.contiguous(memory_format=layout) for part in parts)


class Add(nn.Module):
    """Sums tensors of one shape."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class GlobalAvgPool(nn.Module):
    """Mean over the pixels: [N, C, H, W] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv(channels: int, attributes: Mapping[str, Any]) -> nn.Module:
    kernel, stride = attributes["kernel"], attributes["stride"]
    # Where the padding is the same at all sizes it is torch's own module, which every pass and tool knows.
    constant = kernel == 1 or (stride == 1 and kernel % 2)
    kind, padding = (nn.Conv2d, kernel // 2) if constant else (SameConv2d, 0)
    groups, bias = attributes["groups"], attributes["bias"]
    return kind(channels, attributes["channels"], kernel, stride, padding, groups=groups, bias=bias)


def _activation(_channels: int, attributes: Mapping[str, Any]) -> nn.Module:
    return {"relu": nn.ReLU, "silu": nn.SiLU}[attributes["function"]]()


MODULES: Mapping[str, Callable[[int, Mapping[str, Any]], nn.Module]] = {
    "conv": _conv,
    "batch_norm": lambda channels, a: nn.BatchNorm2d(channels, eps=a["epsilon"], momentum=1 - a["decay"]),
    "activation": _activation,
    "max_pool": lambda _, a: SameMaxPool2d(a["kernel"], a["stride"]),
    "concat": lambda *_: Concat(),
    "add": lambda *_: Add(),
    "global_avg_pool": lambda *_: GlobalAvgPool(),
    "dropout": lambda _, a: nn.Dropout(a["rate"]),
    "dense": lambda channels, a: nn.Linear(channels, a["units"], bias=a["bias"]),
}
"""Operation -> its module, made from the channels it reads and the node's attributes."""


def _refuse_reserved(name: str) -> None:
    for part in name.split("."):
        if hasattr(_BARE, part):
            raise SpecError(f"{name}: {part!r} cannot be part of a name", hint="torch modules have an attribute of it")


_BARE = fx.GraphModule({}, fx.Graph())
