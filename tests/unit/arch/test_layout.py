"""Layouts: layers follow the edges, no two boxes share a place, lines keep off the boxes, a cell has no crossing."""

from __future__ import annotations

from itertools import combinations, pairwise

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkserve.arch import load
from shrinkserve.arch.counts import block_name
from shrinkserve.arch.layout import Layout, arrange, collapse


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
    names = [str(index) for index in range(draw(st.integers(1, 9)))]
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(
        draw(st.lists(st.sampled_from(list(combinations(names, 2))), max_size=14)) if names[1:] else []
    )
    return graph


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_any_graph_is_legible(graph: nx.DiGraph) -> None:
    layout = arrange(graph)
    assert set(layout.places) == set(graph)
    for one, other in combinations(layout.places.values(), 2):
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) > 0.99
    for (source, target), points in zip(graph.edges, layout.edges, strict=True):
        assert (points[0], points[-1]) == (layout.places[source], layout.places[target])
        for before, after in pairwise(points):
            assert 0.99 < after[0] - before[0] < 1.01
        for bend in points[1:-1]:
            assert all(abs(bend[0] - x) > 0.99 or abs(bend[1] - y) > 0.49 for x, y in layout.places.values())


def crossings(layout: Layout) -> int:
    steps = {step for points in layout.edges for step in pairwise(points)}
    return sum(
        (a[1] - c[1]) * (b[1] - d[1]) < 0 for (a, b), (c, d) in combinations(steps, 2) if abs(a[0] - c[0]) < 0.01
    )


def test_a_pooled_cell_has_no_crossing() -> None:
    spec = load("shrinkcnn-a")
    prefix = "stage3.cell1."
    inside = [name for name in spec if name.startswith(prefix)]
    cell = spec.subgraph([*inside, "stage2.cell3.add"])
    blocks = collapse(cell, lambda name: name.removeprefix(prefix).partition(".")[0] if name in inside else name)
    assert len(blocks) == 11
    assert crossings(arrange(blocks)) == 0


def test_the_network_collapses_to_a_chain_of_blocks() -> None:
    spec = load("shrinkcnn-b")
    blocks = collapse(spec, block_name)
    assert len(blocks) == 21
    assert list(blocks.edges) == list(zip(blocks, list(blocks)[1:], strict=False))
    assert sum(len(members) for _, members in blocks.nodes(data="members")) == len(spec)
