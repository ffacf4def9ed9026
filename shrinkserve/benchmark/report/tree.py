"""Stages as a tree: one row for each stage, indented below its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shrinkserve.benchmark.report.svg import path, picture, text

TITLE = "Stages with the flips on each arrow"
WIDTH, INDENT, ROW = 358.0, 26.0, 68.0
"""Width of the picture, indentation of a generation and height of a row, in pixels. The width fits on a phone."""
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
)


@dataclass(frozen=True)
class Node:
    """Stage in the tree.

    Attributes:
        name: name of the stage.
        note: second line.
        parent: position of its parent, which comes before it; None for the root.
        flips: predictions that differ from its parent; None for the root.
        bad: True if they must not differ.
        reference: True for the checkpoint that later stages are compared with.
    """

    name: str
    note: str
    parent: int | None
    flips: int | None
    bad: bool
    reference: bool

    @property
    def label(self) -> str:
        """Text on its arrow."""
        return "" if self.flips is None else f"{self.flips:,} flip{'' if self.flips == 1 else 's'}"


def draw(nodes: Sequence[Node]) -> str:
    """Return the picture of a tree."""
    order = _depth_first(nodes, None)
    rows = {number: row for row, number in enumerate(order)}
    depths: list[int] = []
    for node in nodes:
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
    parts = [_TIP]
    for number in order:
        node, x, y = nodes[number], 2 + INDENT * depths[number], rows[number] * ROW + 4
        if node.parent is not None:
            trunk, top = 2 + INDENT * depths[node.parent] + 13, rows[node.parent] * ROW + 50
            points = [(trunk, top), (trunk, y + 23), (x - 2, y + 23)]
            parts.append(path(points, "edge bad" if node.bad else "edge", ' marker-end="url(#tip)"'))
            parts.append(text(x + 2, y - 6, node.label, kind="flips bad" if node.bad else "flips"))
        kind = "box reference" if node.reference else "box"
        parts += [
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH - x - 2:.1f}" height="46" rx="8" class="{kind}"/>',
            text(x + 12, y + 19, node.name, kind="name"),
            text(x + 12, y + 36, node.note, kind="small"),
        ]
    return picture(WIDTH, len(nodes) * ROW - 14, TITLE, parts)


def _depth_first(nodes: Sequence[Node], parent: int | None) -> list[int]:
    found = []
    for number, node in enumerate(nodes):
        if node.parent == parent:
            found += [number, *_depth_first(nodes, number)]
    return found
