from __future__ import annotations

import numpy as np
import pytest

from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor
from shrinkserve.benchmark.load.validity import Reason, invalid_reasons, steady
from shrinkserve.benchmark.timing import Timing

TIMING = Timing(window=1.0, agree=3, most=10)


def window(requests: int, median: float, spread: float = 0.02) -> Window:
    made = Window(completed=requests, images=requests)
    for seconds in np.random.default_rng(requests).normal(median, spread * median, requests):
        made.latency.record(float(seconds))
    return made


def reasons(windows: list[Window], *, lag: float = 0.0, cores: float = 0.1, rate: float | None = None) -> list[Reason]:
    recorder = Recorder(1.0)
    for _ in range(100):
        recorder.send_lag.record(lag)
    monitor = Monitor()
    monitor.own_cores = cores
    return [one.reason for one in invalid_reasons(windows, TIMING, recorder, rate, 0, monitor)]


def test_equal_windows_are_steady_and_valid() -> None:
    windows = [window(200, 0.01)] * 3
    assert steady(windows, TIMING)
    assert reasons(windows) == []


@pytest.mark.parametrize(
    "windows",
    [
        [window(200, median) for median in (0.01, 0.013, 0.017)],
        [window(requests, 0.01) for requests in (200, 300, 400)],
    ],
    ids=["latency", "throughput"],
)
def test_drift_is_unstable(windows: list[Window]) -> None:
    assert not steady(windows, TIMING)
    assert reasons(windows) == [Reason.UNSTABLE]


def test_steady_uses_only_the_last_windows() -> None:
    assert steady([window(50, 0.04), *[window(200, 0.01)] * 3], TIMING)


def test_steady_needs_enough_windows() -> None:
    assert not steady([window(200, 0.01)] * 2, TIMING)


def test_steady_allows_the_noise_of_few_requests() -> None:
    # Medians differ by 15 %, each within its interval of 40 scattered samples.
    assert steady([window(40, m, spread=1.0) for m in (0.010, 0.011, 0.0115)], TIMING)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"cores": 0.97}, [Reason.CLIENT_BOUND]), ({"lag": 0.02}, [Reason.CLIENT_BOUND]), ({"lag": 0.0005}, [])],
)
def test_busy_or_late_generator_is_client_bound(given: dict[str, float], expected: list[Reason]) -> None:
    assert reasons([window(200, 0.01)] * 3, **given) == expected


@pytest.mark.parametrize(("rate", "expected"), [(250.0, [Reason.OVERLOADED]), (205.0, [])])
def test_responses_below_the_offered_rate_are_overload(rate: float, expected: list[Reason]) -> None:
    assert reasons([window(200, 0.01)] * 3, rate=rate) == expected


def test_few_requests_are_not_valid() -> None:
    assert reasons([window(20, 0.01)] * 3) == [Reason.TOO_FEW]
