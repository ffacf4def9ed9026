from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from shrinkserve.benchmark.load.histogram import PERCENTILES, LatencyHistogram
from shrinkserve.benchmark.stats import Estimate

SAMPLES = np.random.default_rng(3).lognormal(-4, 0.7, 5000)  # around 18 ms


@pytest.fixture(scope="module")
def filled() -> LatencyHistogram:
    histogram = LatencyHistogram()
    for seconds in SAMPLES:
        histogram.record(float(seconds))
    return histogram


def test_percentiles_equal_numpy_to_three_digits(filled: LatencyHistogram) -> None:
    for percent in PERCENTILES:
        ranked = np.sort(SAMPLES)[round(percent * 50) - 1]
        assert filled.percentile(percent) == pytest.approx(ranked, rel=2e-3)
    assert filled.mean == pytest.approx(SAMPLES.mean(), rel=2e-3)
    assert filled.longest == pytest.approx(SAMPLES.max(), rel=2e-3)


def test_interval_ends_are_order_statistics(filled: LatencyHistogram) -> None:
    ends = filled.interval(50)
    # ranks of the normal approximation: n/2 -+ 1.96 sqrt(n)/2
    spread = 1.96 * 5000**0.5 / 2
    ordered = np.sort(SAMPLES)
    assert ends.low == pytest.approx(ordered[int(2500 - spread)], rel=5e-3)
    assert ends.high == pytest.approx(ordered[int(2500 + spread)], rel=5e-3)
    assert ends.low < filled.percentile(50) < ends.high


def test_merge_equals_one_histogram() -> None:
    parts = [LatencyHistogram(), LatencyHistogram()]
    for number, seconds in enumerate(SAMPLES[:1000]):
        parts[number % 2].record(float(seconds))
    merged = LatencyHistogram.merge(parts)
    assert merged.count == 1000
    assert merged.percentile(99) == pytest.approx(np.sort(SAMPLES[:1000])[989], rel=2e-3)


def test_encoded_form_is_read_by_the_library(filled: LatencyHistogram) -> None:
    record = filled.to_record()
    foreign = HdrHistogram.decode(record.hdr)
    assert foreign.get_total_count() == 5000
    assert foreign.get_value_at_percentile(99) / 1e3 == pytest.approx(record.percentiles["p99"].value)
    assert LatencyHistogram(record.hdr).percentile(90) == filled.percentile(90)


def test_buckets_have_every_sample(filled: LatencyHistogram) -> None:
    buckets = filled.buckets()
    assert sum(count for _, _, count in buckets) == 5000
    assert all(low < high for low, high, _ in buckets)


def test_record_clips_to_the_range() -> None:
    histogram = LatencyHistogram()
    histogram.record(-1.0)
    histogram.record(1e6)
    assert histogram.count == 2
    assert histogram.percentile(1) == pytest.approx(1e-6)


def test_empty_histogram_has_zeros() -> None:
    assert LatencyHistogram().to_record().percentiles["p99"] == Estimate(0.0, 0.0, 0.0)
