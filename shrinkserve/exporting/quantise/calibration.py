"""Ranges and distributions of a graph's tensors over sample images.

onnxruntime's calibrators are not used. They keep every activation of every image in memory, about 50 MB for each image
at 224x224, and count the exact zeros behind a ReLU as part of the distribution, which moves the entropy method's range.
The float16 step needs the same ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from shrinkserve.exporting import graph
from shrinkserve.runtimes.onnx import quiet_options

BINS = 2048
SMALL_BATCH = 8
"""Images in one run: it keeps every tensor of the graph, about 50 MB for each image at 224x224."""

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
ActivationRange = tuple[float, float]


@dataclass(frozen=True)
class ActivationHistogram:
    """Values of one tensor.

    Attributes:
        low: the smallest value.
        high: the largest value.
        counts: int64 [BINS], equal bins from `low` to `high`.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @property
    def peak(self) -> float:
        """Return the largest magnitude."""
        return max(abs(self.low), abs(self.high))


def observe(model: ir.Model, images: npt.NDArray[np.uint8]) -> dict[str, ActivationHistogram]:
    """Run `model` on `images` twice, for the ranges and then for the histograms.

    Infinite values, e.g. of attention masks, are ignored; so are tensors without finite values.

    Args:
        model: float32, takes uint8 images; it is not changed.
        images: uint8 [N, S, S, 3].

    Returns:
        Name -> histogram, for every float32 tensor that a node computes.
    """
    ranges: dict[str, ActivationRange] = {}
    for name, values in _run(model, images):
        if not values.size:
            continue
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for name, values in _run(model, images):
        if name in counts:
            counts[name] += _bin(values, ranges[name])
    return {name: ActivationHistogram(*ranges[name], counts[name]) for name in ranges}


def _run(model: ir.Model, images: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield the name and the finite values of each float32 tensor, batch by batch."""
    import onnxruntime

    seen = ir.from_proto(ir.to_proto(model))
    names = expose(seen)
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # keeps plain layouts
    content = ir.to_proto(seen).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    for start in range(0, len(images), SMALL_BATCH):
        found = session.run(names, {feed: images[start : start + SMALL_BATCH]})
        yield from ((name, values[np.isfinite(values)]) for name, values in zip(names, found, strict=True))


def expose(model: ir.Model) -> list[str]:
    """Make every float32 tensor that a node of the main graph computes an output; return their names."""
    graph.infer_shapes(model)
    values = [v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    present = set(model.graph.outputs)
    model.graph.outputs.extend(v for v in values if v not in present)
    return [str(v.name) for v in values]


def _bin(values: npt.NDArray[np.float32], limits: ActivationRange) -> npt.NDArray[np.int64]:
    low, high = limits
    if high <= low:
        return np.bincount([0], weights=[values.size], minlength=BINS).astype(np.int64)
    index = ((values.ravel() - np.float64(low)) * (BINS / (high - low))).astype(np.int32)
    return np.bincount(np.clip(index, 0, BINS - 1, out=index), minlength=BINS)


def clip(
    histograms: Mapping[str, ActivationHistogram], method: Method, levels: int = 256
) -> dict[str, ActivationRange]:
    """Return the range of each tensor for its quantisation; values outside saturate.

    Args:
        histograms: from `observe`.
        method: "minmax" covers all values, "percentile" all but 0.01 %. "entropy" is the range whose quantised
            distribution diverges least from the true one (Migacz, "8-bit Inference with TensorRT", GTC 2017).
        levels: number of steps of the range.
    """
    rules: dict[Method, Callable[[ActivationHistogram, int], ActivationRange]] = {
        "minmax": _minmax,
        "percentile": _percentile,
        "entropy": _entropy,
    }
    return {name: rules[method](histogram, levels) for name, histogram in histograms.items()}


def _minmax(histogram: ActivationHistogram, _levels: int) -> ActivationRange:
    return histogram.low, histogram.high


def _percentile(histogram: ActivationHistogram, _levels: int, percent: float = 99.99) -> ActivationRange:
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - percent / 100) / 2
    # The bin of the quantile stays inside: a tail of exact zeros (ReLU) must not move the low end above zero.
    low = edges[np.searchsorted(share, tail, side="right")]
    high = edges[min(int(np.searchsorted(share, 1 - tail)) + 1, BINS)]
    return float(low), float(high)


def _entropy(histogram: ActivationHistogram, levels: int) -> ActivationRange:
    """Candidates are symmetric limits on the magnitude, clipped to the observed range."""
    magnitudes, positive = _magnitudes(histogram), histogram.low >= 0
    steps = levels if positive else levels // 2
    candidates = np.arange(steps, BINS + 1, 16)
    divergence = [_divergence(magnitudes, int(stop), steps) for stop in candidates]
    limit = histogram.peak * candidates[int(np.argmin(divergence))] / BINS
    return max(histogram.low, -limit), min(histogram.high, limit)


def _magnitudes(histogram: ActivationHistogram) -> npt.NDArray[np.float64]:
    centres = np.abs(np.linspace(histogram.low, histogram.high, 2 * BINS + 1)[1::2])
    index = np.minimum((centres / max(histogram.peak, 1e-30) * BINS).astype(np.int64), BINS - 1)
    counts: npt.NDArray[np.float64] = np.bincount(index, histogram.counts, BINS).astype(np.float64)
    counts[0] = 0 if counts[1:].any() else counts[0]  # exact zeros stay exact: they do not matter for the range
    return counts


def _divergence(counts: npt.NDArray[np.float64], stop: int, steps: int) -> float:
    """Return the Kullback-Leibler divergence of `counts`, saturated at `stop`, from its version in `steps` levels."""
    kept = counts[:stop].copy()
    kept[-1] += counts[stop:].sum()
    level = np.arange(stop) * steps // stop
    filled = counts[:stop] > 0
    share = np.bincount(level, weights=counts[:stop], minlength=steps)
    members = np.bincount(level, weights=filled, minlength=steps)
    coarse = np.where(filled, (share / np.maximum(members, 1))[level], 0.0)
    p, q = kept / kept.sum(), np.maximum(coarse / max(coarse.sum(), 1.0), 1e-12)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))
