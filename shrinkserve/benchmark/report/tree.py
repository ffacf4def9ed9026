"""The chain of stages as a tree: from left to right on a wide page, downwards on a narrow one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shrinkserve.benchmark.report.svg import path, picture, text

TITLE = "Chain of stages with flips on each arrow"
BOX, GAP, ROW = 178.0, 99.0, 62.0
"""Width of a box, room between two columns for an arrow and its label, height of a row; in pixels."""
NARROW, INDENT, STEP = 358.0, 26.0, 68.0
"""Width of the narrow picture, indentation a generation, height of a row."""
_TIP = (
    '<defs><marker id="tip-{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
)
"""The arrow's tip; a picture has its own, as one of a picture that is not shown is not drawn."""


@dataclass(frozen=True)
class Node:
    """A stage.

    Attributes:
        name: of the stage.
        note: a second line.
        parent: position of the stage that it came from; None for a root.
        flips: answers unlike its parent's; None for a root.
        bad: whether there should have been none.
        reference: whether it is the one that all later stages are held to.
    """

    name: str
    note: str
    parent: int | None
    flips: int | None
    bad: bool
    reference: bool

    @property
    def label(self) -> str:
        """What stands on its arrow."""
        return "" if self.flips is None else f"{self.flips:,} flip{'' if self.flips == 1 else 's'}"


def wide(nodes: Sequence[Node]) -> str:
    """From left to right: a column a generation, a row a leaf."""
    columns = _depths(nodes)
    rows = _rows(nodes)
    places = [(4 + column * (BOX + GAP), 6 + row * ROW) for column, row in zip(columns, rows, strict=True)]
    parts = [_TIP.format("wide")]
    for node, (x, y) in zip(nodes, places, strict=True):
        if node.parent is not None:
            start, top = places[node.parent][0] + BOX, places[node.parent][1] + 23
            corner = start + 22
            points = [(start, top), (corner, top), (corner, y + 23), (x - 2, y + 23)]
            parts.append(path(points, "edge bad" if node.bad else "edge", ' marker-end="url(#tip-wide)"'))
            parts.append(text((corner + x) / 2, y + 17, node.label, "middle", "flips bad" if node.bad else "flips"))
        parts += _box(node, x, y, BOX)
    width = max(columns) * (BOX + GAP) + BOX + 8
    return picture(width, (max(rows) + 1) * ROW, TITLE, parts)


def narrow(nodes: Sequence[Node]) -> str:
    """Downwards: a row a stage, indented by its generation."""
    depths = _depths(nodes)
    order = _depth_first(nodes)
    rows = {number: row for row, number in enumerate(order)}
    parts = [_TIP.format("narrow")]
    for number in order:
        node, x, y = nodes[number], 2 + INDENT * depths[number], rows[number] * STEP + 4
        if node.parent is not None:
            trunk, top = 2 + INDENT * depths[node.parent] + 13, rows[node.parent] * STEP + 50
            points = [(trunk, top), (trunk, y + 23), (x - 2, y + 23)]
            parts.append(path(points, "edge bad" if node.bad else "edge", ' marker-end="url(#tip-narrow)"'))
            parts.append(text(x + 2, y - 6, node.label, "start", "flips bad" if node.bad else "flips"))
        parts += _box(node, x, y, NARROW - x - 2)
    return picture(NARROW, len(nodes) * STEP - 14, TITLE, parts)


def _box(node: Node, x: float, y: float, width: float) -> list[str]:
    kind = "box reference" if node.reference else "box"
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="46" rx="8" class="{kind}"/>',
        text(x + 12, y + 19, node.name, kind="name"),
        text(x + 12, y + 36, node.note, kind="small"),
    ]


def _depths(nodes: Sequence[Node]) -> list[int]:
    depths: list[int] = []
    for node in nodes:
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
    return depths


def _children(nodes: Sequence[Node], parent: int | None) -> list[int]:
    return [number for number, node in enumerate(nodes) if node.parent == parent]


def _depth_first(nodes: Sequence[Node], parent: int | None = None) -> list[int]:
    found = []
    for number in _children(nodes, parent):
        found += [number, *_depth_first(nodes, number)]
    return found


def _rows(nodes: Sequence[Node]) -> list[int]:
    """A row for each leaf, and for each other node that of its first child."""
    rows = [0] * len(nodes)
    leaves = 0
    for number in reversed(_depth_first(nodes)):  # children come before their parents
        children = _children(nodes, number)
        if children:
            rows[number] = max(rows[child] for child in children)
        else:
            rows[number] = leaves
            leaves += 1
    return [leaves - 1 - row for row in rows]
