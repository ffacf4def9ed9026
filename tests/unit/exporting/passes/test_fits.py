"""Each pass on the smallest graph that has its pattern."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from random_graphs import Drawing, count, run

from shrinkserve.exporting import passes
from shrinkserve.exporting.passes.editing import GraphPass
from shrinkserve.exporting.passes.nodes import conv_weight


def drawing(channels: int = 3) -> Drawing:
    """Return a drawing whose choices are made by the caller; convolutions always have a bias."""
    empty = Drawing.__new__(Drawing)
    empty.draw, empty.rng = lambda _: True, np.random.default_rng(0)
    empty.nodes, empty.weights, empty.channels = [], [], {"x": channels}
    return empty


def batch_norm(d: Drawing) -> None:
    d.norm(d.conv("x", 4, kernel=3))


def conv_of_concat(d: Drawing) -> None:
    d.conv(d.concat(d.conv("x", 2, kernel=1), d.conv("x", 5, kernel=1)), 4, kernel=3)


def depthwise_of_concat(d: Drawing) -> None:
    d.conv(d.concat("x", d.conv("x", 5, kernel=1)), depthwise=True, kernel=3)


def elementwise_of_concat(d: Drawing) -> None:
    d.add("Relu", [d.concat("x", d.conv("x", 5, kernel=1))], 8)


def concat_of_convs(d: Drawing) -> None:
    d.concat(d.conv("x", 2, kernel=1), d.conv("x", 5, kernel=1))


def sum_of_convs(d: Drawing) -> None:
    d.add("Add", [d.conv("x", 2, kernel=3), d.conv("x", 2, kernel=3)], 2)


def sum_with_concat(d: Drawing) -> None:
    d.add("Add", [d.conv("x", 5, kernel=1), d.concat("x", d.conv("x", 2, kernel=1))], 5)


def residual(d: Drawing) -> None:
    d.add("Add", ["x", d.conv("x", 3, kernel=1)], 3)


def unaligned(d: Drawing) -> None:
    a = d.conv(d.conv("x", 5, kernel=1), depthwise=True, kernel=3)
    b = d.concat(a, d.conv("x", 2, kernel=1))
    d.add("Add", [d.conv("x", 7, kernel=1), b], 7)


@pytest.mark.parametrize(
    ("make", "pattern", "before", "after"),
    [
        (passes.FoldBatchNorm, batch_norm, {"BatchNormalization": 1}, {"BatchNormalization": 0, "Conv": 1}),
        (passes.ConvOverConcat, conv_of_concat, {"Concat": 1, "Conv": 3}, {"Concat": 0, "Conv": 4, "Add": 1}),
        (passes.DepthwiseOverConcat, depthwise_of_concat, {"Conv": 2}, {"Conv": 3, "Concat": 1}),
        (passes.ElementwiseOverConcat, elementwise_of_concat, {"Relu": 1}, {"Relu": 2, "Concat": 1}),
        (passes.ConcatToSum, concat_of_convs, {"Concat": 1}, {"Concat": 0, "Add": 1}),
        (passes.ConvBesideConcat, sum_with_concat, {"Concat": 1, "Conv": 2}, {"Concat": 2, "Conv": 3}),
        (passes.MergeSums, sum_of_convs, {"Conv": 2, "Add": 1}, {"Conv": 1, "Add": 0}),
        (passes.MergeSums, residual, {"Add": 1}, {"Conv": 1, "Add": 0}),
        (passes.GlobalPool, batch_norm, {"ReduceMean": 1}, {"ReduceMean": 0, "GlobalAveragePool": 1}),
    ],
)
def test_pass_rewrites_its_pattern(
    make: Callable[[], GraphPass], pattern: Callable[[Drawing], None], before: dict[str, int], after: dict[str, int]
) -> None:
    d = drawing()
    pattern(d)
    model = d.model()
    expected = run(model)
    assert {op: count(model, op) for op in before} == before
    assert make()(model).modified
    assert {op: count(model, op) for op in after} == after
    np.testing.assert_allclose(run(model), expected, rtol=1e-4, atol=1e-5)


def test_padding_fills_blocks() -> None:
    d = drawing()
    unaligned(d)
    model = d.model()
    expected = run(model)
    passes.GlobalPool()(model)
    assert passes.PadChannels(4)(model).modified
    weights = [weight for node in model.graph if (weight := conv_weight(node)) is not None]
    assert [len(weight) for weight in weights] == [8, 8, 4, 12]
    assert count(model, "Gather") == 0
    np.testing.assert_allclose(run(model), expected, rtol=1e-4, atol=1e-5)


def test_chain_sums_leaves_each_addition_to_a_convolution() -> None:
    d = drawing()
    d.add("Add", ["x", d.add("Add", [d.conv("x", 3, kernel=1), d.conv("x", 3, kernel=3)], 3)], 3)
    model = d.model()
    expected = run(model)
    assert passes.ChainSums()(model).modified
    sums = [node.inputs for node in model.graph if node.op_type == "Add"]
    kinds = [[getattr(value.producer(), "op_type", None) for value in inputs] for inputs in sums]
    assert kinds == [[None, "Conv"], ["Add", "Conv"]]
    np.testing.assert_allclose(run(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readers", [1, 2])
def test_alone_leaves_concat_with_other_readers(readers: int) -> None:
    d = drawing()
    joined = d.concat(d.conv("x", 2, kernel=1), d.conv("x", 5, kernel=1))
    convs = [d.conv(joined, 4, kernel=1) for _ in range(readers)]
    d.add("Add", [convs[0], convs[-1]], 4)
    assert passes.ConvOverConcat(alone=True)(d.model()).modified == (readers == 1)
    assert passes.ConvOverConcat()(d.model()).modified


def test_scope_limits_pass() -> None:
    d = drawing()
    batch_norm(d)
    model = d.model()
    assert not passes.FoldBatchNorm("elsewhere.")(model).modified
    assert passes.FoldBatchNorm("t1")(model).modified
