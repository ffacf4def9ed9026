from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.benchmark.stats import Interval, mcnemar, mean_interval, quantile_ranks, wilson


def by_formula(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's interval by the formula in textbooks."""
    z, p = 1.959963984540054, successes / trials
    centre = p + z * z / (2 * trials)
    spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return (centre - spread) / (1 + z * z / trials), (centre + spread) / (1 + z * z / trials)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_the_formula(case: tuple[int, int]) -> None:
    ends = wilson(*case)
    assert (ends.low, ends.high) == pytest.approx(by_formula(*case), abs=1e-9)
    assert 0 <= ends.low <= case[0] / case[1] <= ends.high <= 1


def test_wilson_without_a_trial_is_0_to_1() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 5), (10, 2), (2, 10), (40, 12)])
def test_mcnemar_equals_the_two_sided_sign_test(lost: int, gained: int) -> None:
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(121, 59, 4.4344492637551645e-06), (0, 9, 0.00390625), (40, 12, 0.0001275387838557407), (1, 0, 1.0)],
)
def test_mcnemar_equals_statsmodels(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-9)  # mcnemar(..., exact=True) of statsmodels 0.14


def test_mean_interval_equals_students_example() -> None:
    # Student's own data (1908): extra hours of sleep by hyoscine; mean 2.33, standard error 0.633, t(9) = 2.262.
    ends = mean_interval([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    assert (ends.low, ends.high) == pytest.approx((0.898, 3.762), abs=2e-3)
    assert mean_interval([7.0]) == Interval(7.0, 7.0)
    assert mean_interval([0.0, 4.0]).low == 0.0  # a rate is not negative


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_quantile_ranks_have_the_confidence_level(quantile: float) -> None:
    count, rounds = 1000, 2000
    samples = np.sort(np.random.default_rng(1).random((rounds, count)), axis=1)  # the true quantile is `quantile`
    low, high = quantile_ranks(quantile, count)
    covered = (samples[:, low - 1] <= quantile) & (quantile <= samples[:, high - 1])
    assert 0.94 < covered.mean() < 0.99  # ranks are integers, so the level is at least 95 %


def test_quantile_ranks_of_few_samples_are_inside() -> None:
    assert quantile_ranks(0.999, 3) == (3, 3)
    assert quantile_ranks(0.5, 1) == (1, 1)


def test_interval_overlaps_interval_with_common_point() -> None:
    assert Interval(1, 2).overlaps(Interval(2, 3))
    assert not Interval(1, 2).overlaps(Interval(2.1, 3))
