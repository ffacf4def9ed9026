"""The statistics that a claim about accuracy or latency needs: intervals, and whether a difference is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""The confidence level of every interval that this package reports."""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, both ends in the unit of the figure it belongs to."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share a value."""
        return self.low <= other.high and other.low <= self.high


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson, JASA 1927), which stays inside [0, 1] also at 0 % and 100 %.

    Args:
        successes: how many of the trials succeeded.
        trials: how many there were; without any, nothing is known: [0, 1].
    """
    from scipy.stats import binomtest

    if trials == 0:
        return Interval(0.0, 1.0)
    ends = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(ends.low), float(ends.high))


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar test (McNemar, Psychometrika 1947): is a change of accuracy on the same images real?

    Args:
        lost: images that were right before and are wrong now.
        gained: images that were wrong before and are right now.

    Returns:
        The probability of a split at least this uneven if both were equally good; 1.0 when no image changed sides.
    """
    from scipy.stats import binomtest

    changed = lost + gained
    return 1.0 if changed == 0 else float(binomtest(lost, changed, 0.5).pvalue)


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval of a mean (Student, Biometrika 1908).

    Args:
        values: independent measurements; with fewer than two, nothing is known of their scatter: the value itself.
    """
    from scipy.stats import t

    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, mean)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(max(0.0, mean - reach), mean + reach)


def quantile_ranks(quantile: float, count: int) -> tuple[int, int]:
    """Ranks of the order statistics that enclose a quantile, whatever the distribution is.

    The number of samples below the true quantile is binomial, so its own quantiles are the ranks (David and Nagaraja,
    Order Statistics, section 7.1). The samples are taken to be independent.

    Args:
        quantile: in (0, 1), e.g. 0.99.
        count: how many samples there are, at least 1.

    Returns:
        1-based ranks of the lower and the upper sample, both within 1..count.
    """
    from scipy.stats import binom

    tail = (1 - CONFIDENCE) / 2
    low = int(binom.ppf(tail, count, quantile))
    high = int(binom.ppf(1 - tail, count, quantile)) + 1
    return max(1, low), min(count, high)
