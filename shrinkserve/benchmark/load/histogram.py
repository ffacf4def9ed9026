"""Latencies in a high dynamic range histogram: bounded memory, three significant digits, mergeable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shrinkserve.benchmark.stats import Interval, quantile_ranks

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
"""The percentiles that every record carries."""

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class LatencyHistogram:
    """Latencies from 1 microsecond to 1 hour, in seconds outside and in microseconds inside.

    Args:
        encoded: what `encode` returned, to read a stored histogram back.
    """

    def __init__(self, encoded: str | None = None) -> None:
        from hdrh.histogram import HdrHistogram

        if encoded is None:
            self._hdr: HdrHistogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        else:
            self._hdr = HdrHistogram.decode(encoded)

    @classmethod
    def merge(cls, parts: Iterable[LatencyHistogram]) -> LatencyHistogram:
        """One histogram of all samples of `parts`."""
        whole = cls()
        for part in parts:
            whole._hdr.add(part._hdr)
        return whole

    def record(self, seconds: float) -> None:
        """Add one latency; one outside the range is counted at the nearer end."""
        self._hdr.record_value(min(max(round(seconds * 1e6), _LOWEST_US), _HIGHEST_US))

    @property
    def count(self) -> int:
        """How many latencies were recorded."""
        return int(self._hdr.get_total_count())

    @property
    def mean(self) -> float:
        """Mean latency in seconds; 0 when nothing was recorded."""
        return float(self._hdr.get_mean_value()) / 1e6 if self.count else 0.0

    @property
    def longest(self) -> float:
        """The longest latency in seconds."""
        return float(self._hdr.get_max_value()) / 1e6

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` of the samples do not exceed."""
        return float(self._hdr.get_value_at_percentile(percent)) / 1e6

    def interval(self, percent: float) -> Interval:
        """The confidence interval of a percentile, in seconds, free of any assumption on the distribution."""
        if not self.count:
            return Interval(0.0, 0.0)
        low, high = quantile_ranks(percent / 100, self.count)
        # The percentile of rank r: half a sample below it, so that rounding cannot step over to rank r + 1.
        return Interval(*(self.percentile(100 * (rank - 0.5) / self.count) for rank in (low, high)))

    def buckets(self, per_decade: int = 40) -> list[tuple[float, float, int]]:
        """The distribution in logarithmic buckets, for drawing: (low, high, count), in seconds, empty ones left out."""
        ratio = 10 ** (1 / per_decade)
        return [
            (item.value_iterated_from / 1e6, item.value_iterated_to / 1e6, int(item.count_added_in_this_iter_step))
            for item in self._hdr.get_log_iterator(10, ratio)
            if item.count_added_in_this_iter_step
        ]

    def encode(self) -> str:
        """The whole histogram as base64 text in the HdrHistogram V2 format, which its other tools read too."""
        return bytes(self._hdr.encode()).decode("ascii")

    def to_dict(self) -> dict[str, Any]:
        """Percentiles with their intervals, mean and maximum in milliseconds, and the encoded histogram."""
        percentiles = {}
        for percent in PERCENTILES:
            ends = self.interval(percent)
            percentiles[f"p{percent:g}"] = {
                "value": 1e3 * self.percentile(percent),
                "low": 1e3 * ends.low,
                "high": 1e3 * ends.high,
            }
        return {
            "unit": "ms",
            "count": self.count,
            "mean": 1e3 * self.mean,
            "max": 1e3 * self.longest,
            "percentiles": percentiles,
            "hdr": self.encode(),
        }
