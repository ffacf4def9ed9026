"""Pictures of a cell or of the whole network, for a talk or a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.arch.counts import Block, Counts, block_name, count
from shrinkserve.arch.layout import Layout, Place, arrange, collapse
from shrinkserve.arch.shapes import Shape
from shrinkserve.arch.spec import Spec, inputs
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".pdf", ".png", ".svg")
COLUMN, ROW = 2.35, 1.15
"""Inches from box to box."""
WIDTH, HEIGHT = 1.62, 0.68
"""Inches of a box."""
INK, LINE = "#1f2933", "#7b8794"
COLOURS = {
    "separable": "#bfdbf7",
    "convolution": "#b8e6d3",
    "max_pool": "#fbd9a5",
    "concat": "#e4e7eb",
    "add": "#f7c6c7",
    "dense": "#d9ccf0",
}
OTHER = "#ffffff"
TIMES = "\N{MULTIPLICATION SIGN}"


def save(spec: Spec, path: Path, title: str, *, whole: bool = False, cell: str | None = None) -> None:
    """Draw one cell, or the whole network by its cells, into a file.

    Args:
        spec: the network.
        path: the picture; the suffix decides the format: .svg, .png or .pdf.
        title: what to write above the picture: the network's name.
        whole: draw the network.
        cell: the cell to draw, ``stageN.cellM``; None: the first of those with the most operations.

    Raises:
        ConfigError: another suffix, no such cell, or no matplotlib.
        ArtifactError: the place cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: no such picture format", expected=" or ".join(FORMATS), found=repr(path.suffix))
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("drawing needs matplotlib", hint='pip install "shrinkserve[train]"') from None
    counts = count(spec)
    # A picture is the same bytes every time: no date in it, no random ids.
    with mpl.rc_context({"svg.hashsalt": "shrinkserve", "font.family": "DejaVu Sans"}):
        figure = Figure()
        axes = figure.add_axes((0, 0, 1, 1))
        if whole:
            _draw_network(axes, spec, counts, title)
        else:
            _draw_cell(axes, spec, counts, title, cell or _richest(counts))
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        figure.set_size_inches(right - left, top - bottom)
        content = io.BytesIO()
        kind = path.suffix.lower()[1:]
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        figure.savefig(content, format=kind, dpi=200, metadata=date)
    write_atomic(path, content.getvalue())


def _richest(counts: Counts) -> str:
    sizes: dict[str, int] = {}
    for operation in counts.operations:
        name = block_name(operation.name)
        sizes[name] = sizes.get(name, 0) + 1
    return max(sizes, key=sizes.__getitem__)


def _draw_cell(axes: Axes, spec: Spec, counts: Counts, title: str, cell: str) -> None:
    members = [name for name in spec if block_name(name) == cell]
    if not members:
        known = ", ".join(block.name for block in counts.blocks)
        raise ConfigError(f"{cell}: no such cell", expected=f"one of {known}")
    outside = {source for name in members for source in inputs(spec, name)} - set(members)

    def block(name: str) -> str:
        return name if name in outside else name.removeprefix(f"{cell}.").partition(".")[0]

    blocks = collapse(spec.subgraph([*outside, *members]), block)
    shapes = {operation.name: operation.shape for operation in counts.operations}
    layout = arrange(blocks)
    _draw_edges(axes, layout)
    for node in blocks:
        inside: list[str] = blocks.nodes[node]["members"]
        label, kind = (_worded(block_name(node)), "") if node in outside else _meaning(spec, inside)
        detail = _size(shapes[inside[-1]])
        _draw_box(axes, layout.places[node], label, detail, COLOURS.get(kind, OTHER))
    cost = next(b for b in counts.blocks if b.name == cell)
    _frame(
        axes,
        layout,
        f"{title}, {_worded(cell)}",
        f"{_short(cost.macs)} multiply-accumulates · {_short(cost.parameters)} parameters",
    )


def _draw_network(axes: Axes, spec: Spec, counts: Counts, title: str) -> None:
    """A column a stage, its cells from top to bottom; a cell's colour says how much of the work it does."""
    columns: dict[str, list[Block]] = {}
    for block in counts.blocks:
        columns.setdefault(block.name.partition(".")[0], []).append(block)
    places = {
        block.name: (float(column), -float(row))
        for column, blocks in enumerate(columns.values())
        for row, block in enumerate(blocks)
    }
    total, most = sum(counts.macs.values()), max(block.macs for block in counts.blocks)
    for blocks in columns.values():
        for block in blocks:
            label = _worded(block.name.rpartition(".")[2])
            share = f"{block.macs / total:.1%} of MACs" if block.macs else "no MACs"
            _draw_box(axes, places[block.name], label, share, _shade(block.macs / most))
        _draw_column_head(axes, places[blocks[0].name], blocks)
    edges = collapse(spec, block_name).edges
    layout = Layout(places, [[places[source], places[target]] for source, target in edges])
    for source, target in edges:
        _draw_step(axes, places[source], places[target])
    parameters = sum(counts.parameters.values())
    _frame(axes, layout, title, f"{_short(total)} multiply-accumulates · {_short(parameters)} parameters", head=0.75)


def _draw_column_head(axes: Axes, place: Place, blocks: Sequence[Block]) -> None:
    x, y = place[0] * COLUMN, place[1] * ROW + HEIGHT / 2
    name = _worded(blocks[0].name.partition(".")[0])
    lines = (
        name,
        _size(blocks[-1].shape),
        f"{_short(sum(b.parameters for b in blocks))} parameters",
    )
    for line, (text, size, weight) in enumerate(zip(lines, (10.5, 9, 8.5), ("bold", "normal", "normal"), strict=True)):
        colour = INK if line < 2 else LINE
        axes.text(
            x,
            y + 0.68 - 0.21 * line,
            text,
            ha="center",
            va="center",
            fontsize=_fitting(size, text),
            weight=weight,
            color=colour,
        )


def _draw_step(axes: Axes, source: Place, target: Place) -> None:
    """An edge of the network's picture: down inside a column, or from the foot of one to the head of the next."""
    (x0, y0), (x1, y1) = ((x * COLUMN, y * ROW) for x, y in (source, target))
    if x0 == x1:
        _draw_curve(axes, [(x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2 + 0.03)], upright=True)
    else:
        _draw_curve(axes, [(x0 + WIDTH / 2, y0), (x1 - WIDTH / 2 - 0.03, y1)])


def _shade(share: float) -> str:
    """From white to the blue of a separable convolution's box."""
    light, full = (255, 255, 255), (111, 168, 220)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(light, full, strict=True))


def _meaning(spec: Spec, members: Sequence[str]) -> tuple[str, str]:
    """What a block of operations is called in a picture, and its colour."""
    ops = [spec.nodes[name] for name in members]
    convolutions = [a for a in ops if a["op"] == "conv"]
    function = [a["function"].replace("relu", "ReLU").replace("silu", "SiLU") for a in ops if a["op"] == "activation"]
    if convolutions:
        first = convolutions[0]
        kind = "separable" if len(convolutions) > 1 else "convolution"
        stride = f" / {first['stride']}" if first["stride"] > 1 else ""
        ending = f", {function[-1]}" if len(function) >= len(convolutions) else ""
        return (
            f"{'sep' if kind == 'separable' else 'conv'} {first['kernel']}{TIMES}{first['kernel']}{stride}{ending}",
            kind,
        )
    op = ops[-1]["op"]
    if op == "max_pool":
        return f"max pool {ops[-1]['kernel']}{TIMES}{ops[-1]['kernel']} / {ops[-1]['stride']}", op
    return {"add": "+", "dense": "dense"}.get(op, op.replace("_", " ")), op


def _draw_edges(axes: Axes, layout: Layout) -> None:
    for points in layout.edges:
        stops = [(x * COLUMN, y * ROW) for x, y in points]
        stops[0] = (stops[0][0] + WIDTH / 2, stops[0][1])
        stops[-1] = (stops[-1][0] - WIDTH / 2 - 0.03, stops[-1][1])
        _draw_curve(axes, stops)


def _draw_curve(axes: Axes, stops: Sequence[Place], *, upright: bool = False) -> None:
    """A line through the stops that is level (or upright) at each, with an arrow at its end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    corners, codes = [stops[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(stops):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        corners += [(x0, y), (x1, y), (x1, y1)] if upright else [(x, y0), (x, y1), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    arrow = FancyArrowPatch(
        path=Curve(corners, codes), arrowstyle="-|>", mutation_scale=9, color=LINE, lw=1.3, zorder=1
    )
    axes.add_patch(arrow)


def _draw_box(axes: Axes, place: Place, label: str, detail: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place[0] * COLUMN, place[1] * ROW
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, style, facecolor=colour, edgecolor=INK, lw=1, zorder=2))
    axes.text(
        x, y + 0.12, label, ha="center", va="center", fontsize=_fitting(9.5, label), color=INK, weight="bold", zorder=3
    )
    axes.text(x, y - 0.16, detail, ha="center", va="center", fontsize=8.5, color=INK, zorder=3)


def _frame(axes: Axes, layout: Layout, title: str, subtitle: str, head: float = 0.0) -> None:
    corners = [*layout.places.values(), *(point for points in layout.edges for point in points)]
    xs, ys = [x * COLUMN for x, _ in corners], [y * ROW for _, y in corners]
    left, right = min(xs) - WIDTH / 2 - 0.3, max(xs) + WIDTH / 2 + 0.3
    bottom, top = min(ys) - HEIGHT / 2 - 0.3, max(ys) + HEIGHT / 2 + 0.95 + head
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    axes.text(left + 0.3, top - 0.35, title, fontsize=15, weight="bold", color=INK, va="center")
    axes.text(left + 0.3, top - 0.65, subtitle, fontsize=10, color=LINE, va="center")


def _size(shape: Shape) -> str:
    return TIMES.join(map(str, (*shape[1:], shape[0])))


def _fitting(size: float, text: str) -> float:
    """A font size at which `text` stays inside a box: about 20 letters fit at 9.5 points."""
    return min(size, 190 / max(1, len(text)))


def _worded(name: str) -> str:
    return re.sub(r"(stage|cell)(\d+)", r"\1 \2", name).replace(".", " ")


def _short(value: int) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
