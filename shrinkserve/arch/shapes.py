"""Shape inference, with TensorFlow's SAME padding.

A shape is ``(channels, height, width)``, or ``(channels,)`` after global pooling, without the batch.

**Padding.** The reference networks were trained in TensorFlow, so convolutions and pools use its ``SAME`` padding. The
output has ``ceil(size / stride)`` rows, and the smaller half of the padding comes first. A 3x3 convolution with stride
2 on an even size (the stem at 224) pads one row below and none above. At odd sizes, and for odd kernels with stride 1,
both sides are equal. torch's symmetric ``padding=1`` gives the same shapes but shifts the image by one pixel, so
weights from TensorFlow would give other logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from shrinkserve.arch.spec import Attributes, Spec, inputs, order
from shrinkserve.errors import SpecError

Shape: TypeAlias = tuple[int, ...]


def same_size(size: int, stride: int) -> int:
    """Return the output rows of a SAME convolution or pool with `size` input rows."""
    return -(-size // stride)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the rows that SAME adds before and after `size` rows; see "Notes on padding" of TensorFlow's ``tf.nn``."""
    total = max(0, (same_size(size, stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def node_shapes(spec: Spec) -> dict[str, Shape]:
    """Return the output shape of every operation of a network whose names, attributes and edges are valid.

    Raises:
        SpecError: names the node whose shapes do not fit.
    """
    shapes: dict[str, Shape] = {}
    for name in order(spec):
        try:
            shapes[name] = output_shape(spec.nodes[name], [shapes[source] for source in inputs(spec, name)])
        except SpecError as exc:
            raise SpecError(f"{name}: {exc}") from None
    return shapes


def output_shape(attributes: Attributes, sources: Sequence[Shape]) -> Shape:
    """Return the output shape of one operation.

    Args:
        attributes: of the node, including ``op``.
        sources: shapes of the inputs.

    Raises:
        SpecError: the operation does not accept these shapes.
    """
    return RULES[attributes["op"]](attributes, sources)


def _pixels(attributes: Attributes, _sources: Sequence[Shape]) -> Shape:
    return attributes["channels"], attributes["size"], attributes["size"]


def _conv(attributes: Attributes, sources: Sequence[Shape]) -> Shape:
    channels, height, width = _check_rank(sources[0], 3)
    filters, groups, stride = attributes["channels"], attributes["groups"], attributes["stride"]
    if channels % groups or filters % groups:
        found = f"{groups} groups for {channels} -> {filters}"
        raise SpecError("invalid number of groups", expected="a divisor of input and output channels", found=found)
    return filters, same_size(height, stride), same_size(width, stride)


def _max_pool(attributes: Attributes, sources: Sequence[Shape]) -> Shape:
    channels, height, width = _check_rank(sources[0], 3)
    kernel, stride = attributes["kernel"], attributes["stride"]
    if stride == 1 and kernel % 2 == 0:
        raise SpecError("invalid kernel for pooling with stride 1", expected="an odd one", found=kernel)
    return channels, same_size(height, stride), same_size(width, stride)


def _concat(_attributes: Attributes, sources: Sequence[Shape]) -> Shape:
    _, height, width = _check_rank(sources[0], 3)
    if len({_check_rank(source, 3)[1:] for source in sources}) > 1:
        raise SpecError(
            "concatenated tensors differ in size", expected="equal height and width", found=_listed(sources)
        )
    return sum(source[0] for source in sources), height, width


def _add(_attributes: Attributes, sources: Sequence[Shape]) -> Shape:
    if len(set(sources)) > 1:
        raise SpecError("added tensors differ in shape", expected="equal shapes", found=_listed(sources))
    return sources[0]


RULES: Mapping[str, Callable[[Attributes, Sequence[Shape]], Shape]] = {
    "input": _pixels,
    "conv": _conv,
    "batch_norm": lambda _, sources: _check_rank(sources[0], 3),
    "activation": lambda _, sources: sources[0],
    "max_pool": _max_pool,
    "concat": _concat,
    "add": _add,
    "global_avg_pool": lambda _, sources: _check_rank(sources[0], 3)[:1],
    "dropout": lambda _, sources: sources[0],
    "dense": lambda attributes, sources: _check_rank(sources[0], 1) and (attributes["units"],),
}
"""Operation -> function of its attributes and input shapes that returns the output shape."""


def _check_rank(shape: Shape, rank: int) -> Shape:
    if len(shape) != rank:
        wanted = "channels, height and width" if rank == 3 else "channels only, as after global_avg_pool"
        raise SpecError("unsuitable input shape", expected=wanted, found=_listed([shape]))
    return shape


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)
