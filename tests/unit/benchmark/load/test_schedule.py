from __future__ import annotations

import numpy as np
import pytest

from shrinkserve.benchmark.load.schedule import OpenSchedule


def gaps(pace: OpenSchedule, count: int = 20_000) -> np.ndarray:
    pace.start(100.0)
    times = np.array([pace.due() for _ in range(count)])
    assert times[0] > 100.0
    return np.diff(times)


def test_poisson_gaps_are_exponential() -> None:
    drawn = gaps(OpenSchedule(50.0))
    assert drawn.mean() == pytest.approx(1 / 50, rel=0.03)
    assert drawn.std() == pytest.approx(
        1 / 50, rel=0.03
    )  # as large as the mean: nothing but the exponential is memoryless
    assert np.mean(drawn > 2 / 50) == pytest.approx(np.exp(-2), rel=0.1)


def test_constant_gaps_are_a_clock() -> None:
    assert gaps(OpenSchedule(50.0, "constant")) == pytest.approx(1 / 50)


def test_the_same_seed_is_the_same_crowd() -> None:
    assert (gaps(OpenSchedule(9.0, seed=4), 50) == gaps(OpenSchedule(9.0, seed=4), 50)).all()
    assert (gaps(OpenSchedule(9.0, seed=4), 50) != gaps(OpenSchedule(9.0, seed=5), 50)).any()
