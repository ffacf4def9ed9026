"""Shapes that follow from a description, with TensorFlow's SAME padding.

A shape is ``(channels, height, width)``, or ``(channels,)`` after global pooling; the batch is not part of it.

**Padding.** The reference networks are TensorFlow's, so every convolution and pool pads as its ``SAME`` does: the
output has ``ceil(size / stride)`` rows, and of the padding that this takes the smaller half comes first. Where a 3x3
convolution of stride 2 meets an even size, that is one row below and none above (the stem at 224); at odd sizes, and
for odd kernels of stride 1, both sides are equal. torch's symmetric ``padding=1`` would give the same shapes from
pixels that are shifted by one: TensorFlow's weights would then answer differently, which is why it is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from shrinkserve.arch.spec import Spec, inputs, order
from shrinkserve.errors import SpecError

Shape: TypeAlias = tuple[int, ...]


def same_size(size: int, stride: int) -> int:
    """Rows of the output of a SAME convolution or pool over `size` rows."""
    return -(-size // stride)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows that SAME pads before and after `size` rows; see "Notes on padding" of TensorFlow's ``tf.nn``."""
    total = max(0, (same_size(size, stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def infer(spec: Spec, input_size: int | None = None) -> dict[str, Shape]:
    """The output shape of every operation.

    Args:
        spec: a network that was checked.
        input_size: height and width of the image; the description's own when None.

    Raises:
        SpecError: shapes that do not fit, naming the node.
    """
    shapes: dict[str, Shape] = {}
    for name in order(spec):
        attributes = dict(spec.nodes[name])
        if attributes["op"] == "input" and input_size is not None:
            attributes["size"] = input_size
        try:
            shapes[name] = output_shape(attributes, [shapes[source] for source in inputs(spec, name)])
        except SpecError as exc:
            raise SpecError(f"{name}: {exc}") from None
    return shapes


def output_shape(attributes: Mapping[str, Any], sources: Sequence[Shape]) -> Shape:
    """The shape of what one operation gives.

    Args:
        attributes: the node's, ``op`` among them.
        sources: the shapes that it reads.

    Raises:
        SpecError: the operation cannot read these shapes.
    """
    return RULES[attributes["op"]](attributes, sources)


def _pixels(attributes: Mapping[str, Any], _sources: Sequence[Shape]) -> Shape:
    return attributes["channels"], attributes["size"], attributes["size"]


def _conv(attributes: Mapping[str, Any], sources: Sequence[Shape]) -> Shape:
    channels, height, width = _want_rank(sources[0], 3)
    filters, groups, stride = attributes["channels"], attributes["groups"], attributes["stride"]
    if channels % groups or filters % groups:
        found = f"{groups} groups for {channels} -> {filters}"
        raise SpecError("groups do not fit", expected="a divisor of input and output channels", found=found)
    return filters, same_size(height, stride), same_size(width, stride)


def _max_pool(attributes: Mapping[str, Any], sources: Sequence[Shape]) -> Shape:
    channels, height, width = _want_rank(sources[0], 3)
    kernel, stride = attributes["kernel"], attributes["stride"]
    if stride == 1 and kernel % 2 == 0:
        raise SpecError("cannot pool at stride 1 with this kernel", expected="an odd one", found=kernel)
    return channels, same_size(height, stride), same_size(width, stride)


def _concat(_attributes: Mapping[str, Any], sources: Sequence[Shape]) -> Shape:
    _, height, width = _want_rank(sources[0], 3)
    if len({_want_rank(source, 3)[1:] for source in sources}) > 1:
        raise SpecError("concatenates different sizes", expected="one height and width", found=_listed(sources))
    return sum(source[0] for source in sources), height, width


def _add(_attributes: Mapping[str, Any], sources: Sequence[Shape]) -> Shape:
    if len(set(sources)) > 1:
        raise SpecError("adds tensors of different shapes", expected="one shape", found=_listed(sources))
    return sources[0]


RULES: Mapping[str, Callable[[Mapping[str, Any], Sequence[Shape]], Shape]] = {
    "input": _pixels,
    "conv": _conv,
    "batch_norm": lambda _, sources: _want_rank(sources[0], 3),
    "activation": lambda _, sources: sources[0],
    "max_pool": _max_pool,
    "concat": _concat,
    "add": _add,
    "global_avg_pool": lambda _, sources: _want_rank(sources[0], 3)[:1],
    "dropout": lambda _, sources: sources[0],
    "dense": lambda attributes, sources: _want_rank(sources[0], 1) and (attributes["units"],),
}
"""Operation -> its output shape from its attributes and the shapes that it reads."""


def _want_rank(shape: Shape, rank: int) -> Shape:
    if len(shape) != rank:
        wanted = "channels, height and width" if rank == 3 else "channels alone, as after global_avg_pool"
        raise SpecError("cannot read this shape", expected=wanted, found=_listed([shape]))
    return shape


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)
