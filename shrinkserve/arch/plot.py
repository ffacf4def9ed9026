"""Pictures of a cell or of a whole network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from shrinkserve.arch.counts import Counts, block_name
from shrinkserve.arch.shapes import Shape
from shrinkserve.arch.spec import Spec, inputs, order
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".pdf", ".png", ".svg")
WIDTH, HEIGHT = 1.7, 0.68
"""Size of a box in inches."""
COLUMN, ROW = 2.35, 1.15
"""Distance between the centres of boxes in inches."""
BEND = 0.3
"""Curvature of an edge around boxes."""
INK, LINE = "#1f2933", "#7b8794"
COLOURS = {
    "separable": "#bfdbf7",
    "convolution": "#b8e6d3",
    "max_pool": "#fbd9a5",
    "concat": "#e4e7eb",
    "add": "#f7c6c7",
    "dense": "#d9ccf0",
}
PLAIN = "#ffffff"
TIMES = "\N{MULTIPLICATION SIGN}"


class DrawnBox(NamedTuple):
    """A box of the picture: its centre in columns and rows, two lines of text, and its colour."""

    x: float
    y: float
    label: str
    detail: str
    colour: str = PLAIN


class Picture(NamedTuple):
    """Boxes by name, edges between them, and the heading."""

    boxes: Mapping[str, DrawnBox]
    edges: Iterable[tuple[str, str]]
    title: str
    costs: str


def save_plot(
    spec: Spec, counts: Counts, path: Path, title: str, *, whole: bool = False, cell: str | None = None
) -> None:
    """Draw one cell, or the whole network, into a file.

    Args:
        spec: the network.
        counts: of `spec`, see `shrinkserve.arch.counts.count`.
        path: the picture; the suffix decides the format: .svg, .png or .pdf.
        title: heading, usually the name of the network.
        whole: draw the network, one box per cell.
        cell: the cell to draw, e.g. ``stage2.cell1``; the first with the most operations if None.

    Raises:
        ConfigError: the suffix or the cell is unknown, or matplotlib is not installed.
        ArtifactError: cannot write the file.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: unknown picture format", expected=" or ".join(FORMATS), found=repr(path.suffix))
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("drawing needs matplotlib", hint='pip install "shrinkserve[train]"') from None
    picture = _network(spec, counts, title) if whole else _cell(spec, counts, title, cell or _largest(counts))
    # Without a date and random ids the same network gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "shrinkserve", "font.family": "DejaVu Sans"}):
        figure = Figure()
        _paint(figure.add_axes((0, 0, 1, 1)), picture)
        content, kind = io.BytesIO(), path.suffix.lower()[1:]
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        figure.savefig(content, format=kind, dpi=200, metadata=date)
    write_atomic(path, content.getvalue())


def collapse(spec: Spec, block: Callable[[str], str]) -> nx.DiGraph[str]:
    """Return the graph of blocks: operations with the same `block` become one node, named in its ``members``."""
    blocks: nx.DiGraph[str] = nx.DiGraph()
    for name in order(spec):
        if block(name) not in blocks:
            blocks.add_node(block(name), members=[])
        blocks.nodes[block(name)]["members"].append(name)
    blocks.add_edges_from((block(a), block(b)) for a, b in spec.edges if block(a) != block(b))
    return blocks


def arrange(blocks: nx.DiGraph[str]) -> dict[str, tuple[float, float]]:
    """Return the column and row of each block: a column per topological generation, rows near their inputs."""
    places: dict[str, tuple[float, float]] = {}
    for column, layer in enumerate(nx.topological_generations(blocks)):
        height = {
            node: sum(places[source][1] for source in blocks.pred[node]) / max(1, len(blocks.pred[node]))
            for node in layer
        }
        ordered = sorted(layer, key=height.__getitem__)
        places |= {node: (float(column), row - (len(layer) - 1) / 2) for row, node in enumerate(ordered)}
    return places


def _largest(counts: Counts) -> str:
    names = [block_name(operation.name) for operation in counts.operations]
    return max(names, key=names.count)


def _cell(spec: Spec, counts: Counts, title: str, cell: str) -> Picture:
    members = [name for name in spec if block_name(name) == cell]
    if not members:
        raise ConfigError(f"{cell}: no such cell", expected=f"one of {', '.join(b.name for b in counts.blocks)}")
    outside = {source for name in members for source in inputs(spec, name)} - set(members)

    def block(name: str) -> str:
        return name if name in outside else name.removeprefix(f"{cell}.").partition(".")[0]

    blocks = collapse(spec.subgraph([*outside, *members]), block)
    shapes = {operation.name: operation.shape for operation in counts.operations}
    boxes = {}
    for node, (x, y) in arrange(blocks).items():
        inside: list[str] = blocks.nodes[node]["members"]
        label, kind = (_words(block_name(node)), "") if node in outside else _describe(spec, inside)
        boxes[node] = DrawnBox(x, y, label, _size(shapes[inside[-1]]), COLOURS.get(kind, PLAIN))
    cost = next(b for b in counts.blocks if b.name == cell)
    return Picture(boxes, blocks.edges, f"{title}, {_words(cell)}", _costs(cost.macs, cost.parameters))


def _network(spec: Spec, counts: Counts, title: str) -> Picture:
    """Return a column per stage, in turns downwards and upwards; darker cells have more multiply-accumulates."""
    total, most = sum(counts.macs.values()), max(block.macs for block in counts.blocks)
    boxes: dict[str, DrawnBox] = {}
    stage, x, y, step = "", -1.0, 0.0, 1.0
    for block in counts.blocks:
        if block.name.partition(".")[0] != stage:
            stage, x, step = block.name.partition(".")[0], x + 1, -step
        else:
            y += step
        detail = f"{_size(block.shape)}, {block.macs / total:.1%}"
        boxes[block.name] = DrawnBox(x, y, _words(block.name), detail, _shade(block.macs / most))
    costs = f"{_costs(total, sum(counts.parameters.values()))}; cells: output, part of the multiply-accumulates"
    return Picture(boxes, collapse(spec, block_name).edges, title, costs)


def _paint(axes: Axes, picture: Picture) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    patches = {}
    for name, box in picture.boxes.items():
        x, y = box.x * COLUMN, box.y * ROW
        style = "round,pad=0,rounding_size=0.1"
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        patches[name] = FancyBboxPatch(corner, WIDTH, HEIGHT, style, facecolor=box.colour, edgecolor=INK, zorder=2)
        axes.add_patch(patches[name])
        for text, above, size in ((box.label, 0.12, 9.5), (box.detail, -0.16, 8.5)):
            fitting = min(size, 190 / max(1, len(text)))  # about 20 letters of 9.5 points fit into a box
            axes.text(x, y + above, text, ha="center", va="center", fontsize=fitting, color=INK, zorder=3)
    for source, target in picture.edges:
        a, b = picture.boxes[source], picture.boxes[target]
        arrow = FancyArrowPatch(
            (a.x * COLUMN, a.y * ROW),
            (b.x * COLUMN, b.y * ROW),
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={_bend(a, b, picture.boxes.values())}",
            mutation_scale=9,
            color=LINE,
            patchA=patches[source],
            patchB=patches[target],
            zorder=1,
        )
        axes.add_patch(arrow)
    xs, ys = zip(*((box.x * COLUMN, box.y * ROW) for box in picture.boxes.values()), strict=True)
    left, right = min(xs) - WIDTH, max(max(xs) + WIDTH, min(xs) + 5)
    bottom, top = min(ys) - 2 * HEIGHT, max(ys) + 2 * HEIGHT + 0.6
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    axes.figure.set_size_inches(right - left, top - bottom)  # type: ignore[union-attr]
    axes.text(left + 0.3, top - 0.35, picture.title, fontsize=15, weight="bold", color=INK, va="center")
    axes.text(left + 0.3, top - 0.65, picture.costs, fontsize=10, color=LINE, va="center")


def _bend(source: DrawnBox, target: DrawnBox, boxes: Iterable[DrawnBox]) -> float:
    """Return the curvature of an edge: away from the middle if the straight line would cross a box, else 0."""
    for box in boxes:
        if source.x < box.x < target.x:
            line = source.y + (target.y - source.y) * (box.x - source.x) / (target.x - source.x)
            if abs(box.y - line) * ROW < HEIGHT / 2:
                return BEND if source.y + target.y < 0 else -BEND
    return 0.0


def _shade(part: float) -> str:
    """Return a colour from white to blue."""
    full = (111, 168, 220)
    return "#" + "".join(f"{round(255 + (value - 255) * part):02x}" for value in full)


def _describe(spec: Spec, members: Sequence[str]) -> tuple[str, str]:
    """Return the label of a block of operations and its key in `COLOURS`."""
    nodes = [spec.nodes[name] for name in members]
    convolutions = [node for node in nodes if node["op"] == "conv"]
    functions = [{"relu": "ReLU", "silu": "SiLU"}[node["function"]] for node in nodes if "function" in node]
    if convolutions:
        kernel, stride = convolutions[0]["kernel"], convolutions[0]["stride"]
        kind, short = ("separable", "sep") if len(convolutions) > 1 else ("convolution", "conv")
        ending = f", {functions[-1]}" if len(functions) >= len(convolutions) else ""
        return f"{short} {kernel}{TIMES}{kernel}{f' / {stride}' if stride > 1 else ''}{ending}", kind
    last = nodes[-1]
    if last["op"] == "max_pool":
        return f"max pool {last['kernel']}{TIMES}{last['kernel']} / {last['stride']}", "max_pool"
    return {"add": "+"}.get(last["op"], last["op"].replace("_", " ")), last["op"]


def _costs(macs: int, parameters: int) -> str:
    return f"{_short(macs)} multiply-accumulates, {_short(parameters)} parameters"


def _size(shape: Shape) -> str:
    return TIMES.join(map(str, (*shape[1:], shape[0])))


def _words(name: str) -> str:
    return re.sub(r"(stage|cell)(\d+)", r"\1 \2", name).replace(".", " ")


def _short(value: int) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
