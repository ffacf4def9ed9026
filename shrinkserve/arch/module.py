"""Compiler from a spec to a torch module.

The module is a `torch.fx.GraphModule` with one call per node in topological order (see ``Network.code``). It frees each
tensor after its last reader. Only the padding of strided convolutions depends on the input size. The module works with
`torch.export` and `torch.compile`, at any input size, in both memory formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from shrinkserve.arch.checks import check_spec
from shrinkserve.arch.shapes import node_shapes, same_padding
from shrinkserve.arch.spec import Attributes, Spec, inputs, order, output_node
from shrinkserve.errors import SpecError


class Network(fx.GraphModule):
    """Compiled network: float images [N, 3, H, W] -> logits [N, classes].

    Dots in node names become nested modules, so keys of the state dict are ``<node>.<tensor>``.
    """


def compile_spec(spec: Spec) -> Network:
    """Compile a network and initialise its weights with torch's default random generator.

    Raises:
        SpecError: the spec is invalid, or a part of a node's name is an attribute of `torch.nn.Module`.
    """
    check_spec(spec)
    shapes = node_shapes(spec)
    graph = fx.Graph()
    values: dict[str, fx.Node] = {}
    modules: dict[str, nn.Module] = {}
    for name in order(spec):
        sources = inputs(spec, name)
        attributes = spec.nodes[name]
        if attributes["op"] == "input":
            values[name] = graph.placeholder("images")
            continue
        _check_reserved(name)
        channels = shapes[sources[0]][0]
        modules[name] = MODULES[attributes["op"]](channels, attributes)
        values[name] = graph.call_module(name, tuple(values[source] for source in sources))
    graph.output(values[output_node(spec)])
    graph.lint()
    network = Network(modules, graph, class_name="Network")
    initialise(network)
    return network


def initialise(network: nn.Module) -> None:
    """Initialise the weights as ShrinkCNN does.

    Convolutions: truncated normal with variance 2 / fan-out, as ``tf.variance_scaling_initializer``. Dense: normal with
    standard deviation 0.01. Biases: 0. Batch norm: scale 1, shift 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            deviation = math.sqrt(2 / fan_out) / TRUNCATED_DEVIATION
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


TRUNCATED_DEVIATION = 0.87962566103423978
"""Standard deviation of the standard normal distribution truncated at ±2."""


class SameConv2d(nn.Conv2d):
    """Convolution with SAME padding for any input size: [N, C, H, W] -> [N, F, ceil(H / s), ceil(W / s)]."""

    def forward(self, x: Tensor) -> Tensor:
        above, below = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        padding = (above, left)
        if (above, left) != (below, right):
            x, padding = functional.pad(x, (left, right, above, below)), (0, 0)
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class SameMaxPool2d(nn.Module):
    """Max pool with SAME padding, which is never the maximum: [N, C, H, W] -> [N, C, ceil(H / s), ceil(W / s)]."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        above, below = same_padding(x.shape[2], self.kernel, self.stride)
        left, right = same_padding(x.shape[3], self.kernel, self.stride)
        # ceil_mode gives the same result as padding one extra row and column at the end.
        uneven = (above, left) != (below, right)
        return functional.max_pool2d(x, self.kernel, self.stride, (above, left), ceil_mode=uneven)


class Concat(nn.Module):
    """Concatenation of channels.

    Attributes:
        copies_gradients: copy gradients on a GPU too. Worth it where the pass is captured as a CUDA graph.
    """

    copies_gradients = False

    def forward(self, *tensors: Tensor) -> Tensor:
        copies = self.copies_gradients or not tensors[0].is_cuda
        if self.training and copies and not torch.compiler.is_compiling():
            return _ConcatWithCopiedGradients.apply(*tensors)  # type: ignore[no-any-return,no-untyped-call]
        return torch.cat(tensors, dim=1)


class _ConcatWithCopiedGradients(torch.autograd.Function):
    """`torch.cat` that copies the gradient of each input instead of returning slices of one tensor.

    On a CPU, batch norm and activations are three to five times slower on slices. Half of the network's batch norms
    precede a concat, so the copies make a training step a fifth faster (``bench/training.py``). On a GPU, batch norm
    leaves the channels-last layout for slices: the kernels of an update take 40.7 ms instead of 46.3 on an H100. But
    Python needs 25 ms more to launch them, which only a captured pass saves (``bench/gpu.py``).
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
    """Sum of a shortcut and residual branches, tensors of the same shape.

    Attributes:
        drop: probability in training that the branches of an image are left out (stochastic depth).
    """

    drop = 0.0

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + self._kept(other)
        return first

    def _kept(self, branch: Tensor) -> Tensor:
        """Return a branch that is zero for some of the images, with the same mean."""
        if not (self.drop and self.training):
            return branch
        keep = torch.rand((len(branch), 1, 1, 1), device=branch.device) >= self.drop
        return branch * (keep / (1 - self.drop)).to(branch.dtype)


def set_stochastic_depth(network: nn.Module, rate: float) -> None:
    """Set the probabilities of the residual branches of a compiled network, from almost 0 to `rate` at the last."""
    additions = [module for module in network.modules() if isinstance(module, Add)]
    for number, module in enumerate(additions, start=1):
        module.drop = rate * number / len(additions)


class GlobalAvgPool(nn.Module):
    """Mean over the pixels: [N, C, H, W] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv(channels: int, attributes: Attributes) -> nn.Module:
    kernel, stride = attributes["kernel"], attributes["stride"]
    # Padding that does not depend on the size needs no custom module, and passes and tools know nn.Conv2d.
    constant = kernel == 1 or (stride == 1 and kernel % 2)
    kind, padding = (nn.Conv2d, kernel // 2) if constant else (SameConv2d, 0)
    groups, bias = attributes["groups"], attributes["bias"]
    return kind(channels, attributes["channels"], kernel, stride, padding, groups=groups, bias=bias)


def _activation(_channels: int, attributes: Attributes) -> nn.Module:
    return {"relu": nn.ReLU, "silu": nn.SiLU}[attributes["function"]]()


MODULES: Mapping[str, Callable[[int, Attributes], nn.Module]] = {
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
"""Operation -> function that returns its module for the input channels and the attributes."""


def _check_reserved(name: str) -> None:
    for part in name.split("."):
        if hasattr(_BARE, part):
            raise SpecError(f"{name}: {part!r} is reserved: torch modules have this attribute", hint="rename the node")


_BARE = fx.GraphModule({}, fx.Graph())
