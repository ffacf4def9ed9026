"""Networks of the package, built from a table of stages.

ShrinkCNN: Zhang et al., "AutoShrink: A Topology-aware NAS for Discovering Efficient Neural Architecture", AAAI 2020,
arXiv:1911.09251. Its variants a and b differ only in the activation. shrinkcnn-tiny has the first cell of the first two
stages: it has every kind of layer of ShrinkCNN, and is trained and exported in seconds.
"""

from __future__ import annotations

import difflib

from shrinkserve.arch.builder import Builder
from shrinkserve.arch.checks import check_spec
from shrinkserve.arch.spec import Spec
from shrinkserve.errors import SpecError

STEM, HEAD = 44, 1280
"""Channels of the first convolution and of the last one."""
STAGES = ((1, 12), (3, 24), (4, 44), (6, 88), (4, 180))
"""Cells and width of each stage. A cell of width f returns 2f channels. Stages from the second on start with a pool."""
NETWORKS = {
    "shrinkcnn-a": ("relu", STAGES),
    "shrinkcnn-b": ("silu", STAGES),
    "shrinkcnn-tiny": ("relu", ((1, 12), (1, 24))),
}
"""Activation and stages of each network."""
SMALLEST_INPUT = 32
WIDEST = 32
"""Largest width multiplier: it gives 40,960 channels in the head, which a spec still allows."""


def network_names() -> list[str]:
    """Return the names of the networks."""
    return sorted(NETWORKS)


def build_network(
    name: str,
    *,
    classes: int = 1001,
    input_size: int = 224,
    width: float = 1.0,
    dropout: float = 0.0,
    batch_norm_decay: float = 0.999,
) -> Spec:
    """Build a network.

    Args:
        name: one of `network_names`.
        classes: number of logits.
        input_size: height and width of the image, at least 32.
        width: multiplier of all channels, which are rounded to multiples of 4; at most 32.
        dropout: rate before the last layer.
        batch_norm_decay: of the running statistics, in TensorFlow's convention (1 - torch's momentum).

    Raises:
        SpecError: unknown name, or a value out of range.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, network_names(), n=1)
        known = f"{', '.join(network_names())} or the path of a .prototxt file"
        raise SpecError(f"{name}: unknown network", expected=known, hint=f"did you mean {near[0]}?" if near else None)
    if input_size < SMALLEST_INPUT:
        raise SpecError(f"{name}: the input is too small", expected=f"at least {SMALLEST_INPUT}", found=input_size)
    if not 0 < width <= WIDEST:
        raise SpecError(f"{name}: width", expected=f"a number above 0, at most {WIDEST}", found=width)

    activation, stages = NETWORKS[name]
    net = Builder(activation, batch_norm_decay)
    x = net.add("images", "input", channels=3, size=input_size)
    x = net.convolution("stem", x, scaled(STEM, width), kernel=3, stride=2, activation=net.activation)
    for stage, (cells, channels) in enumerate(stages, start=1):
        for cell in range(1, cells + 1):
            pooled = stage > 1 and cell == 1
            x = _cell(net, f"stage{stage}.cell{cell}", x, scaled(channels, width), pooled=pooled)
    x = net.convolution("head", x, scaled(HEAD, width), kernel=1, activation=net.activation)
    x = net.add("head.pool", "global_avg_pool", x)
    x = net.add("head.dropout", "dropout", x, rate=dropout)
    net.add("head.logits", "dense", x, units=classes, bias=True)
    check_spec(net.spec)
    return net.spec


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width` as a multiple of 4, at least 4; halves round up."""
    return max(4, 4 * int(channels * width / 4 + 0.5))


def _cell(net: Builder, name: str, r: str, f: int, *, pooled: bool) -> str:
    x = net.add(f"{name}.pool", "max_pool", r, kernel=2, stride=2) if pooled else r
    wired = [net.separable(f"{name}.wiring_{side}", x, f, activation=net.activation) for side in ("left", "right")]
    left, right = (
        net.add(f"{name}.concat_{side}", "concat", x, w) for side, w in zip(("left", "right"), wired, strict=True)
    )
    left = net.separable(f"{name}.left", left, f)
    right = net.convolution(f"{name}.right", right, f, kernel=1)
    joined = net.add(f"{name}.concat", "concat", left, right)
    return net.add(f"{name}.add", "add", net.shortcut(f"{name}.shortcut", r, joined), joined)
