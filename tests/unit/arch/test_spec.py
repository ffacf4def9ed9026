from __future__ import annotations

import json
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.arch import load_network
from shrinkserve.arch.serialise import from_dict, to_dict
from shrinkserve.arch.spec import Spec, add, input_node, inputs, order, output_node
from shrinkserve.errors import SpecError


@pytest.fixture
def tiny() -> Spec:
    spec: Spec = nx.DiGraph()
    add(spec, "image", "input", channels=3, size=8)
    add(spec, "a", "activation", "image", function="relu")
    add(spec, "b", "concat", "a", "image")
    add(spec, "g", "global_avg_pool", "b")
    add(spec, "d", "dense", "g", units=2, bias=True)
    return spec


def test_inputs_are_in_order_of_slots(tiny: Spec) -> None:
    assert inputs(tiny, "b") == ["a", "image"]
    assert (input_node(tiny), output_node(tiny)) == ("image", "d")


def test_order_is_topological_for_any_order_of_nodes(tiny: Spec) -> None:
    shuffled: Spec = nx.DiGraph()
    shuffled.add_nodes_from(reversed(list(tiny.nodes(data=True))))
    shuffled.add_edges_from(tiny.edges(data=True))
    assert list(order(shuffled)) == ["image", "a", "b", "g", "d"]


@pytest.mark.parametrize(
    ("name", "sources", "says"),
    [
        ("a", ["image"], "^a: .*name"),
        ("n", ["image", "image"], "^n: .*twice"),
        ("n", ["later"], "^n: .*later"),
    ],
)
def test_add_rejects_duplicates_and_unknown_input(tiny: Spec, name: str, sources: list[str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        add(tiny, name, "concat", *sources)
    assert "later" not in tiny


def test_dict_round_trip_through_json() -> None:
    spec = load_network("shrinkcnn-a", dropout=0.1)
    back = from_dict(json.loads(json.dumps(to_dict(spec))))
    assert list(back.nodes(data=True)) == list(spec.nodes(data=True))
    assert list(back.edges(data=True)) == list(spec.edges(data=True))
    assert list(order(back)) == list(order(spec))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_from_dict_rejects_any_other_data(raw: Any) -> None:
    with pytest.raises(SpecError):
        from_dict(raw)


@given(nodes=json_values, edges=json_values)
def test_from_dict_rejects_any_nodes_and_edges(nodes: Any, edges: Any) -> None:
    with pytest.raises(SpecError):
        from_dict({"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "edges": edges})


@given(data=st.data(), value=json_values)
def test_from_dict_gives_network_or_error_after_any_change(data: st.DataObject, value: Any) -> None:
    raw = to_dict(load_network("shrinkcnn-a", width=0.25, input_size=32))
    entry = data.draw(st.sampled_from(raw["nodes"] + raw["edges"]))
    key = data.draw(st.sampled_from(sorted(entry)))
    unchanged = entry[key] == value and type(entry[key]) is type(value)
    entry[key] = value
    try:
        from_dict(raw)
    except SpecError:
        assert not unchanged
