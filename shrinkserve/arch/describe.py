"""Costs of a network by its name: the function of the command `describe`."""

from __future__ import annotations

import os
from pathlib import Path

from shrinkserve.arch.counts import Counts, count
from shrinkserve.arch.sources import is_code, load_network
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.preprocess.timm_config import TIMM, timm_preprocess

CODE_CLASSES, CODE_SIZE = 1000, 224
"""Classes and size for networks that are code and do not state their own."""


def describe(
    network: StrPath,
    *,
    input_size: int | None = None,
    width: float = 1.0,
    classes: int | None = None,
    plot: StrPath | None = None,
    whole: bool = False,
    cell: str | None = None,
) -> Counts:
    """Return the shapes, parameters and multiply-accumulates of a network. Needs torch only for networks that are code.

    Args:
        network: a name in the zoo (shrinkcnn-a, -b or -tiny), the path of a .prototxt file, or a network that is code:
            ``timm:NAME`` or ``python:package.module:function``. Code is run, and counted in its traced graph.
        input_size: height and width of the image; that of the network if None.
        width: multiplier of the channels of a network in the zoo.
        classes: number of logits; that of the network if None.
        plot: file for a picture of a cell: .svg, .png or .pdf. Drawing needs matplotlib.
        whole: draw the whole network.
        cell: the cell to draw, e.g. ``stage2.cell1``; the first with the most operations if None.

    Returns:
        The costs of each operation; `Counts.blocks` sums them by cell.

    Raises:
        SpecError: unknown name, invalid file, or a value out of range.
        ConfigError: drawing options that do not fit together, or a picture that cannot be drawn.

    Example:
        >>> counts = describe("shrinkcnn-a", classes=10)
        >>> sum(counts.macs.values())
        382409192
        >>> counts.blocks[2].name, counts.blocks[2].shape
        ('stage1.cell1', (24, 112, 112))
    """
    if (whole or cell) and plot is None:
        raise ConfigError("--whole and --cell select what to draw", hint="add --plot FILE")
    if whole and cell:
        raise ConfigError("--whole and --cell", expected="one of them")
    network = os.fspath(network)
    if is_code(network):
        if width != 1 or plot is not None:
            raise ConfigError(
                f"{network}: --width and --plot are for networks of the zoo and files", hint="leave them out"
            )
        return _describe_code(network, classes, input_size)
    spec = load_network(network, classes=classes, input_size=input_size, width=width)
    counts = count(spec)
    if plot is not None:
        from shrinkserve.arch.plot import save_plot

        save_plot(spec, counts, Path(plot), Path(network).stem, whole=whole, cell=cell)
    return counts


def _describe_code(network: str, classes: int | None, input_size: int | None) -> Counts:
    from shrinkserve.arch.code import CodeNetwork
    from shrinkserve.arch.traced import count_code

    if input_size is None:
        input_size = timm_preprocess(network).size if network.startswith(TIMM) else CODE_SIZE
    return count_code(CodeNetwork(network, CODE_CLASSES if classes is None else classes, input_size))
