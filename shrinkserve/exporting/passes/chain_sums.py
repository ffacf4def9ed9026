"""Rewrite a sum of several terms into a chain of additions."""

from __future__ import annotations

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, add_all, replace
from shrinkserve.exporting.passes.nodes import dense_producer, is_operator, producer, sum_terms


class ChainSums(GraphPass):
    """``x + (A y + B z)`` as ``(x + A y) + B z``: each product can be added by the convolution that computes it.

    Runtimes add one tensor inside a convolution. With the term that is no convolution first, no addition remains.
    Terms that are broadcast stay as they are.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if is_operator(node, "Add") and not _is_term_of_another(node):
                modified |= _chain(node)
        return modified


def _is_term_of_another(add: ir.Node) -> bool:
    users = add.outputs[0].consumers()
    return len(users) == 1 and is_operator(users[0], "Add") and producer(add.outputs[0], "Add") is not None


def _chain(last: ir.Node) -> bool:
    terms = [term for value in last.inputs for term in sum_terms(value)]
    products = [term for term in terms if dense_producer(term) is not None]
    others = [term for term in terms if term not in products]
    if len(others) != 1 or not products or _is_chain(last, others[0]):
        return False
    shapes = [term.shape for term in terms]
    if shapes[0] is None or any(shape != shapes[0] for shape in shapes):
        return False
    names = [f"{last.name}.chain{number}" for number in range(len(products))]
    replace(last.outputs[0], add_all(last, [others[0], *products], names))
    return True


def _is_chain(add: ir.Node, first: ir.Value) -> bool:
    """Return True if the sum is already a chain that begins with `first`."""
    inner = [found for value in add.inputs if (found := producer(value, "Add")) is not None]
    return _is_chain(inner[0], first) if len(inner) == 1 else not inner and first in add.inputs
