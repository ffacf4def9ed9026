"""Conversion of a network spec to and from node-link data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from shrinkserve.arch.checks import check_spec
from shrinkserve.arch.spec import Spec
from shrinkserve.errors import SpecError


def to_dict(spec: Spec) -> dict[str, Any]:
    """Return a network as node-link data for JSON."""
    return nx.node_link_data(spec, edges="edges")


def from_dict(raw: Mapping[str, object]) -> Spec:
    """Return the network of node-link data, checked.

    Raises:
        SpecError: not node-link data, or an invalid network.
    """
    if not isinstance(raw, Mapping) or raw.get("directed") is not True or raw.get("multigraph") is not False:
        raise SpecError("not a network description", expected="node-link data of a directed graph")
    try:
        spec: Spec = nx.DiGraph(nx.node_link_graph(dict(raw), edges="edges"))
    except (nx.NetworkXError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise SpecError(f"not a network description ({exc!r})", expected="node-link data of a directed graph") from exc
    check_spec(spec)
    return spec
