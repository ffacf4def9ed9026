from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from random_graphs import models, run

from shrinkserve.exporting import passes
from shrinkserve.exporting.passes.editing import GraphPass

PASSES: list[Callable[[], GraphPass]] = [
    passes.FoldBatchNorm,
    passes.ChainSums,
    passes.ConvBesideConcat,
    passes.ConvOverConcat,
    passes.DepthwiseOverConcat,
    passes.ElementwiseOverConcat,
    passes.EvenPads,
    passes.ConcatToSum,
    passes.MergeSums,
    passes.GlobalPool,
    lambda: passes.PadChannels(4),
]


@pytest.mark.parametrize("make", PASSES, ids=lambda make: type(make()).__name__)
@given(data=st.data())
@settings(max_examples=40)
def test_pass_keeps_outputs_and_is_idempotent(make: Callable[[], GraphPass], data: st.DataObject) -> None:
    model = data.draw(models())
    expected, names = run(model), [value.name for value in model.graph.outputs]
    result = make()(model)
    np.testing.assert_allclose(run(result.model), expected, rtol=1e-3, atol=1e-4 * max(1, np.abs(expected).max()))
    assert [value.name for value in result.model.graph.outputs] == names
    # A sum with a tensor that cannot be padded keeps a convolution as it was, which would be tried again.
    assert make().once or not make()(result.model).modified


@given(data=st.data())
@settings(max_examples=40)
def test_passes_in_any_order_keep_outputs(data: st.DataObject) -> None:
    model = data.draw(models())
    expected = run(model)
    for make in data.draw(st.lists(st.sampled_from(PASSES), min_size=2, max_size=6)):
        make()(model)
    np.testing.assert_allclose(run(model), expected, rtol=1e-3, atol=1e-4 * max(1, np.abs(expected).max()))
