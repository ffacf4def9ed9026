"""Blocks of ShrinkCNN, as groups of operations that are added to a spec.

The zoo and the .prototxt importer share them.
"""

from __future__ import annotations

import networkx as nx

from shrinkserve.arch import spec as specs
from shrinkserve.arch.shapes import Shape, output_shape
from shrinkserve.arch.spec import Value
from shrinkserve.errors import SpecError

EPSILON = 1e-3
"""Epsilon of the batch norms in the reference networks."""


class Builder:
    """A spec under construction, with the shape of each operation.

    Args:
        activation: the network's non-linearity, ``"relu"`` or ``"silu"``.
        batch_norm_decay: of the running statistics, in TensorFlow's convention (1 - torch's momentum).
    """

    def __init__(self, activation: str, batch_norm_decay: float) -> None:
        self.spec: specs.Spec = nx.DiGraph()
        self.activation = activation
        self.batch_norm_decay = batch_norm_decay
        self.shapes: dict[str, Shape] = {}

    def add(self, name: str, op: str, *inputs: str, **attributes: Value) -> str:
        """Add one operation and return its name.

        Raises:
            SpecError: the shapes of its inputs do not fit.
        """
        specs.add(self.spec, name, op, *inputs, **attributes)
        try:
            self.shapes[name] = output_shape(self.spec.nodes[name], [self.shapes[source] for source in inputs])
        except SpecError as exc:
            raise SpecError(f"{name}: {exc}") from None
        return name

    def convolution(
        self, name: str, x: str, channels: int, kernel: int, stride: int = 1, activation: str | None = None
    ) -> str:
        """Add a convolution without bias, a batch norm and, unless it is None, an activation."""
        x = self.add(f"{name}.conv", "conv", x, channels=channels, kernel=kernel, stride=stride, groups=1, bias=False)
        return self._normalised(x, f"{name}.norm", f"{name}.activation", activation)

    def separable(
        self, name: str, x: str, channels: int, kernel: int = 3, stride: int = 1, activation: str | None = None
    ) -> str:
        """Add a depthwise convolution, batch norm and the network's activation; then a 1x1 convolution and batch norm.

        `activation` follows the last batch norm unless it is None. It does not affect the activation in the middle.
        """
        depth = self.shapes[x][0]
        middle = f"{name}.depthwise"
        x = self.add(middle, "conv", x, channels=depth, kernel=kernel, stride=stride, groups=depth, bias=False)
        x = self._normalised(x, f"{middle}_norm", f"{middle}_activation", self.activation)
        x = self.add(f"{name}.pointwise", "conv", x, channels=channels, kernel=1, stride=1, groups=1, bias=False)
        return self._normalised(x, f"{name}.norm", f"{name}.activation", activation)

    def shortcut(self, name: str, x: str, like: str) -> str:
        """Return `x` if it has the shape of `like`; otherwise add a strided 1x1 convolution with batch norm."""
        source, target = self.shapes[x], self.shapes[like]
        if source == target:
            return x
        stride = -(-source[-1] // target[-1])
        return self.convolution(name, x, target[0], kernel=1, stride=stride)

    def _normalised(self, x: str, norm: str, activation_name: str, activation: str | None) -> str:
        x = self.add(norm, "batch_norm", x, epsilon=EPSILON, decay=self.batch_norm_decay)
        return x if activation is None else self.add(activation_name, "activation", x, function=activation)
