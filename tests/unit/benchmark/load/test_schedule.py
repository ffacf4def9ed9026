from __future__ import annotations

import numpy as np
import pytest

from shrinkserve.benchmark.load.schedule import OpenSchedule


def gaps(schedule: OpenSchedule, count: int = 20_000) -> np.ndarray:
    schedule.start(100.0)
    times = np.array([schedule.due() for _ in range(count)])
    assert times[0] > 100.0
    return np.diff(times)


def test_poisson_gaps_have_an_exponential_distribution() -> None:
    drawn = gaps(OpenSchedule(50.0))
    assert drawn.mean() == pytest.approx(1 / 50, rel=0.03)
    assert drawn.std() == pytest.approx(1 / 50, rel=0.03)  # equal to the mean in an exponential distribution
    assert np.mean(drawn > 2 / 50) == pytest.approx(np.exp(-2), rel=0.1)


def test_constant_gaps_are_equal() -> None:
    assert gaps(OpenSchedule(50.0, "constant")) == pytest.approx(1 / 50)


def test_same_seed_gives_the_same_due_times() -> None:
    assert (gaps(OpenSchedule(9.0, seed=4), 50) == gaps(OpenSchedule(9.0, seed=4), 50)).all()
    assert (gaps(OpenSchedule(9.0, seed=4), 50) != gaps(OpenSchedule(9.0, seed=5), 50)).any()
