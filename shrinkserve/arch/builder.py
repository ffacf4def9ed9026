"""The blocks that ShrinkCNN is made of, as groups of operations added to a spec.

The zoo and the .prototxt importer build with the same blocks, and so cannot disagree on what a block is.
"""

from __future__ import annotations

from typing import Any

import networkx as nx

from shrinkserve.arch import spec as specs
from shrinkserve.arch.shapes import Shape, output_shape
from shrinkserve.errors import SpecError

EPSILON = 1e-3
"""Batch norm's, of the reference networks."""


class Builder:
    """Adds operations one after the other and knows the shape of each.

    Args:
        activation: the network's non-linearity, ``"relu"`` or ``"silu"``.
        batch_norm_decay: of the running statistics, in TensorFlow's convention.
    """

    def __init__(self, activation: str, batch_norm_decay: float) -> None:
        self.spec: specs.Spec = nx.DiGraph()
        self.activation = activation
        self.batch_norm_decay = batch_norm_decay
        self.shapes: dict[str, Shape] = {}

    def add(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """Add one operation; raises `SpecError` where it cannot read its inputs."""
        specs.add(self.spec, name, op, *inputs, **attributes)
        try:
            self.shapes[name] = output_shape(self.spec.nodes[name], [self.shapes[source] for source in inputs])
        except SpecError as exc:
            raise SpecError(f"{name}: {exc}") from None
        return name

    def convolution(
        self, name: str, x: str, channels: int, kernel: int, stride: int = 1, activation: str | None = None
    ) -> str:
        """Convolution without bias, batch norm, and an activation unless it is linear (None)."""
        x = self.add(f"{name}.conv", "conv", x, channels=channels, kernel=kernel, stride=stride, groups=1, bias=False)
        return self._normalised(x, f"{name}.norm", f"{name}.activation", activation)

    def separable(
        self, name: str, x: str, channels: int, kernel: int = 3, stride: int = 1, activation: str | None = None
    ) -> str:
        """Depthwise convolution, batch norm, the network's activation; then pointwise, batch norm, `activation`.

        The activation in the middle is there also where the block's own is linear (None).
        """
        depth = self.shapes[x][0]
        middle = f"{name}.depthwise"
        x = self.add(middle, "conv", x, channels=depth, kernel=kernel, stride=stride, groups=depth, bias=False)
        x = self._normalised(x, f"{middle}_norm", f"{middle}_activation", self.activation)
        x = self.add(f"{name}.pointwise", "conv", x, channels=channels, kernel=1, stride=1, groups=1, bias=False)
        return self._normalised(x, f"{name}.norm", f"{name}.activation", activation)

    def shortcut(self, name: str, x: str, like: str) -> str:
        """`x` itself where it has the shape of `like`, else a strided 1x1 convolution with batch norm."""
        source, target = self.shapes[x], self.shapes[like]
        if source == target:
            return x
        stride = -(-source[-1] // target[-1])
        return self.convolution(name, x, target[0], kernel=1, stride=stride)

    def _normalised(self, x: str, norm: str, activation_name: str, activation: str | None) -> str:
        x = self.add(norm, "batch_norm", x, epsilon=EPSILON, decay=self.batch_norm_decay)
        return x if activation is None else self.add(activation_name, "activation", x, function=activation)
