from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from shrinkserve.exporting.quantise.calibration import BINS, METHODS, ActivationHistogram, clip, observe


def histogram(values: np.ndarray) -> ActivationHistogram:
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    return ActivationHistogram(float(values.min()), float(values.max()), counts)


SCALED = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (uint8[N, 4, 4, 3] images) => (float[N, 4, 4, 3] y)
{
    x = Cast <to = 1> (images)
    scale = Constant <value_float = 0.5> ()
    y = Mul (x, scale)
}
"""


def test_observe_ranges_equal_numpy():
    images = np.random.default_rng(0).integers(3, 200, (21, 4, 4, 3), dtype=np.uint8)
    seen = observe(ir.from_onnx_text(SCALED), images)
    assert (seen["y"].low, seen["y"].high) == (images.min() / 2, images.max() / 2)
    assert seen["y"].counts.sum() == images.size
    expected, _ = np.histogram(images.astype(np.float32) / 2, BINS, (seen["y"].low, seen["y"].high))
    assert np.abs(np.cumsum(seen["y"].counts - expected)).max() <= np.bincount(images.ravel()).max()


def test_observe_leaves_model_unchanged():
    model = ir.from_onnx_text(SCALED)
    before = ir.to_onnx_text(model)
    observe(model, np.zeros((2, 4, 4, 3), np.uint8))
    assert ir.to_onnx_text(model) == before


def test_percentile_equals_numpy():
    values = np.random.default_rng(1).normal(size=400_000)
    low, high = clip({"x": histogram(values)}, "percentile")["x"]
    width = (values.max() - values.min()) / BINS
    assert np.quantile(values, [0.00005, 0.99995]) == pytest.approx([low, high], abs=2 * width)


@pytest.mark.parametrize("sign", [1, -1])
def test_entropy_cuts_outlier(sign: int):
    values = np.append(sign * np.abs(np.random.default_rng(2).normal(size=200_000)), sign * 60.0)
    ranges = {method: clip({"x": histogram(values)}, method)["x"] for method in METHODS}
    assert max(map(abs, ranges["minmax"])) == 60
    assert 2 < max(map(abs, ranges["entropy"])) < 12


@pytest.mark.parametrize("method", METHODS)
def test_constant_tensor_has_range(method: str):
    counts = np.zeros(BINS, np.int64)
    counts[0] = 7
    low, high = clip({"x": ActivationHistogram(1.5, 1.5, counts)}, method)["x"]
    assert low <= high <= 1.5
