"""Where the boxes of a picture go: operations collapsed to blocks, blocks in layers, layers in a legible order.

A small Sugiyama layout (Sugiyama, Tagawa, Toda, 1981): layers by longest path, a bend in every layer that an edge only
passes, an order within each layer with few crossings and short edges. networkx places the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from random import Random
from typing import TypeAlias

import networkx as nx

from shrinkserve.arch.spec import Spec, order

Place: TypeAlias = tuple[float, float]
SWEEPS = 3
TRIES = 20
FEW = 4
"""Boxes of a layer up to which every order is tried."""


def collapse(spec: Spec, block: Callable[[str], str]) -> nx.DiGraph[str]:
    """The graph of blocks: operations with the same `block` become one node, with their names in ``members``."""
    blocks: nx.DiGraph[str] = nx.DiGraph()
    for name in order(spec):
        if block(name) not in blocks:
            blocks.add_node(block(name), members=[])
        blocks.nodes[block(name)]["members"].append(name)
    for source, target in spec.edges:
        if block(source) != block(target):
            blocks.add_edge(block(source), block(target))
    return blocks


@dataclass
class Layout:
    """Places of boxes, and the points that each edge passes: layers to the right, the first of a layer at the top."""

    places: dict[str, Place] = field(default_factory=dict)
    edges: list[list[Place]] = field(default_factory=list)


def arrange(blocks: nx.DiGraph[str]) -> Layout:
    """Lay out a graph of blocks; a layer and a row are 1 apart."""
    layers = [list(layer) for layer in nx.topological_generations(blocks)]
    level = {node: index for index, layer in enumerate(layers) for node in layer}
    routed: nx.DiGraph[str] = nx.DiGraph()
    routed.add_nodes_from(blocks)
    paths: list[list[str]] = []
    for source, target in blocks.edges:
        # All edges of a node pass the same bends, so that they leave it as one line.
        bends = [f"{source}\n{layer}" for layer in range(level[source] + 1, level[target])]
        paths.append([source, *bends, target])
        nx.add_path(routed, paths[-1])
        for layer, bend in enumerate(bends, start=level[source] + 1):
            if bend not in layers[layer]:
                layers[layer].append(bend)
    random = Random(0)  # the same picture every time
    tries = [_swept([random.sample(layer, len(layer)) for layer in layers], routed) for _ in range(TRIES)]
    layers = min(tries, key=lambda tried: _length(tried, routed))
    places = _place(layers)
    for path in paths:
        _straighten(path[1:-1], layers, places)
    return Layout({node: places[node] for node in blocks}, [[places[node] for node in path] for path in paths])


def _place(layers: list[list[str]]) -> dict[str, Place]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(node for layer in layers for node in layer)
    # Given as lists, the nodes of a layer keep their order.
    downwards = {index: layer[::-1] for index, layer in enumerate(layers)}
    found = nx.multipartite_layout(graph, subset_key=downwards, scale=1)
    # networkx scales the whole to a box; what was 1 apart before is the step from layer to layer or from row to row.
    first = layers[0]
    if len(layers) > 1:
        step = found[layers[1][0]][0] - found[first[0]][0]
    else:
        step = found[first[0]][1] - found[first[1]][1] if len(first) > 1 else 1.0
    return {node: (float(x / step), float(y / step)) for node, (x, y) in found.items()}


def _straighten(bends: list[str], layers: list[list[str]], places: dict[str, Place]) -> None:
    """A line that passes outside all boxes stays at one height."""
    for outermost, end in ((max, 0), (min, -1)):
        if all(any(layer[end] == bend for layer in layers) for bend in bends):
            height = outermost((places[bend][1] for bend in bends), default=0.0)
            places.update({bend: (places[bend][0], height) for bend in bends})


def _swept(layers: list[list[str]], routed: nx.DiGraph[str]) -> list[list[str]]:
    """Improves the order of one layer after the other, there and back."""
    for _ in range(SWEEPS):
        for index in (*range(len(layers)), *reversed(range(len(layers)))):
            layers[index] = _best_order(index, layers, routed)
    return layers


def _best_order(index: int, layers: list[list[str]], routed: nx.DiGraph[str]) -> list[str]:
    layer = layers[index]
    rows = _rows(layers[max(0, index - 1) : index + 2])
    around = {node: [rows[other] for other in nx.all_neighbors(routed, node)] for node in layer}
    if len(layer) > FEW:
        return sorted(layer, key=lambda node: sum(around[node]) / max(1, len(around[node])))

    def length(nodes: Iterable[str]) -> float:
        places = _rows([list(nodes)])
        return sum((places[node] - other) ** 2 for node in places for other in around[node])

    return list(min(permutations(layer), key=length))


def _length(layers: list[list[str]], routed: nx.DiGraph[str]) -> float:
    """Squared lengths of the edges: where they are short, few of them cross."""
    rows = _rows(layers)
    return sum((rows[source] - rows[target]) ** 2 for source, target in routed.edges)


def _rows(layers: Sequence[Sequence[str]]) -> dict[str, float]:
    return {node: index - (len(layer) - 1) / 2 for layer in layers for index, node in enumerate(layer)}
