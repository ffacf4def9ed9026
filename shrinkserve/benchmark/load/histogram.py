"""Latency histogram with bounded memory and three significant digits (HdrHistogram)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shrinkserve.benchmark.stats import Estimate, Interval, quantile_ranks
from shrinkserve.errors import ArtifactError

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
"""Percentiles in every record."""
PERCENTILE_NAMES = tuple(f"p{percent:g}" for percent in PERCENTILES)
"""Keys of `LatencyRecord.percentiles`."""

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


@dataclass(frozen=True)
class LatencyRecord:
    """Latencies of a load test in milliseconds; `percentiles` has the keys ``p50`` to ``p99.9``."""

    count: int
    mean: float
    max: float
    percentiles: dict[str, Estimate]
    hdr: str
    unit: str = "ms"


class LatencyHistogram:
    """Latencies from 1 microsecond to 1 hour. Methods take and return seconds.

    Args:
        encoded: result of `encode`, to load a stored histogram.

    Raises:
        ArtifactError: `encoded` is damaged.
    """

    def __init__(self, encoded: str | None = None) -> None:
        from hdrh.codec import HdrCookieException, HdrLengthException
        from hdrh.histogram import HdrHistogram

        if encoded is None:
            self._hdr: HdrHistogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
            return
        try:
            self._hdr = HdrHistogram.decode(encoded)
        except (ValueError, zlib.error, HdrCookieException, HdrLengthException) as exc:
            raise ArtifactError(f"cannot decode the latency histogram ({exc})") from exc

    @classmethod
    def merge(cls, parts: Iterable[LatencyHistogram]) -> LatencyHistogram:
        """Return one histogram of all samples of `parts`."""
        merged = cls()
        for part in parts:
            merged._hdr.add(part._hdr)
        return merged

    def record(self, seconds: float) -> None:
        """Add one latency, clipped to the range of the histogram."""
        self._hdr.record_value(min(max(round(seconds * 1e6), _LOWEST_US), _HIGHEST_US))

    @property
    def count(self) -> int:
        """Number of latencies."""
        return int(self._hdr.get_total_count())

    @property
    def mean(self) -> float:
        """Mean latency; 0 for an empty histogram."""
        return float(self._hdr.get_mean_value()) / 1e6 if self.count else 0.0

    @property
    def longest(self) -> float:
        """Maximum latency."""
        return float(self._hdr.get_max_value()) / 1e6

    def percentile(self, percent: float) -> float:
        """Return the latency that `percent` of the samples do not exceed."""
        return float(self._hdr.get_value_at_percentile(percent)) / 1e6

    def interval(self, percent: float) -> Interval:
        """Return the confidence interval of a percentile, without any assumption about the distribution."""
        if not self.count:
            return Interval(0.0, 0.0)
        low, high = quantile_ranks(percent / 100, self.count)
        # The percentile of rank r is taken half a sample lower, so that rounding cannot return rank r + 1.
        return Interval(*(self.percentile(100 * (rank - 0.5) / self.count) for rank in (low, high)))

    def buckets(self, per_decade: int = 40) -> list[tuple[float, float, int]]:
        """Return logarithmic buckets (low, high, count) for drawing; empty buckets are left out."""
        ratio = 10 ** (1 / per_decade)
        return [
            (item.value_iterated_from / 1e6, item.value_iterated_to / 1e6, int(item.count_added_in_this_iter_step))
            for item in self._hdr.get_log_iterator(10, ratio)
            if item.count_added_in_this_iter_step
        ]

    def encode(self) -> str:
        """Return the histogram as base64 text in the HdrHistogram V2 format, which other HdrHistogram tools read."""
        return bytes(self._hdr.encode()).decode("ascii")

    def to_record(self) -> LatencyRecord:
        """Return mean, maximum and percentiles in milliseconds, and the encoded histogram."""
        percentiles = {}
        for name, percent in zip(PERCENTILE_NAMES, PERCENTILES, strict=True):
            ends = self.interval(percent)
            value = self.percentile(percent)
            percentiles[name] = Estimate(low=1e3 * ends.low, high=1e3 * ends.high, value=1e3 * value)
        return LatencyRecord(self.count, 1e3 * self.mean, 1e3 * self.longest, percentiles, self.encode())
