"""A sum of several terms, taken one after the other."""

from __future__ import annotations

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, insert, is_dense, producer, replace


class ChainSums(GraphPass):
    """``x + (A y + B z)`` as ``(x + A y) + B z``: each product can be added by the convolution that computes it.

    Runtimes add inside a convolution, one tensor each: with what is no convolution first, no addition is left over.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if node.op_type == "Add" and not _is_term_of_another(node):
                modified |= _chain(node)
        return modified


def _is_term_of_another(add: ir.Node) -> bool:
    users = add.outputs[0].consumers()
    return len(users) == 1 and users[0].op_type == "Add" and producer(add.outputs[0], "Add") is not None


def _chain(last: ir.Node) -> bool:
    terms = _terms(last)
    products = [term for term in terms if (conv := producer(term, "Conv")) is not None and is_dense(conv)]
    others = [term for term in terms if term not in products]
    if len(others) != 1 or not products or _is_chain(last, others[0]):
        return False
    total = others[0]
    for number, product in enumerate(products):
        total = insert(last, "Add", [total, product], f"{last.name}.chain{number}")
        total.shape = last.outputs[0].shape
    replace(last.outputs[0], total)
    return True


def _terms(add: ir.Node) -> list[ir.Value]:
    """What is added, from left to right, through all sums that nobody else reads."""
    found: list[ir.Value] = []
    for value in add.inputs:
        assert value is not None
        inner = producer(value, "Add")
        found += [value] if inner is None else _terms(inner)
    return found


def _is_chain(add: ir.Node, first: ir.Value) -> bool:
    """Whether the sum begins with `first` already and takes one term after the other."""
    inner = [found for value in add.inputs if (found := producer(value, "Add")) is not None]
    return _is_chain(inner[0], first) if len(inner) == 1 else not inner and first in add.inputs
