"""Confidence intervals and significance tests for accuracy and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Confidence level of every interval that this package reports."""


@dataclass(frozen=True)
class Interval:
    """Two-sided confidence interval, in the unit of its figure."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Return True if the two intervals share a value."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Estimate(Interval):
    """Measured value with its confidence interval."""

    value: float


def wilson(successes: int, trials: int) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson, JASA 1927). It stays inside [0, 1].

    Args:
        successes: number of trials that succeeded.
        trials: number of trials; with none the interval is [0, 1].
    """
    from scipy.stats import binomtest

    if trials == 0:
        return Interval(0.0, 1.0)
    ends = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(ends.low), float(ends.high))


def mcnemar(lost: int, gained: int) -> float:
    """Return the p-value of the exact two-sided McNemar test (McNemar, Psychometrika 1947).

    Args:
        lost: number of images that were right before and are wrong now.
        gained: number of images that were wrong before and are right now.

    Returns:
        The probability of a split at least this uneven if both models were equally good; 1.0 without any change.
    """
    from scipy.stats import binomtest

    changed = lost + gained
    return 1.0 if changed == 0 else float(binomtest(lost, changed, 0.5).pvalue)


def mean_interval(values: Sequence[float]) -> Interval:
    """Return Student's interval of a mean (Student, Biometrika 1908), cut off at 0.

    Args:
        values: independent measurements. For a single one the interval is the value.
    """
    from scipy.stats import t

    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, mean)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(max(0.0, mean - reach), mean + reach)


def quantile_ranks(quantile: float, count: int) -> tuple[int, int]:
    """Return the ranks of the order statistics that enclose a quantile of any distribution.

    The number of samples below the true quantile is binomial, so the quantiles of that binomial are the ranks (David
    and Nagaraja, Order Statistics, section 7.1). Samples are assumed to be independent.

    Args:
        quantile: in (0, 1), e.g. 0.99.
        count: number of samples, at least 1.

    Returns:
        1-based ranks of the lower and the upper sample, both in 1..count.
    """
    from scipy.stats import binom

    tail = (1 - CONFIDENCE) / 2
    low = int(binom.ppf(tail, count, quantile))
    high = int(binom.ppf(1 - tail, count, quantile)) + 1
    return max(1, low), min(count, high)
