from __future__ import annotations

import numpy as np

from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor
from shrinkserve.benchmark.load.validity import invalid_reasons, steady
from shrinkserve.benchmark.timing import Timing

TIMING = Timing(window=1.0, agree=3, most=10)


def window(requests: int, median: float, spread: float = 0.02) -> Window:
    made = Window(completed=requests, images=requests)
    for seconds in np.random.default_rng(requests).normal(median, spread * median, requests):
        made.latency.record(float(seconds))
    return made


def reasons(windows: list[Window], *, lag: float = 0.0, cores: float = 0.1, rate: float | None = None) -> list[str]:
    recorder = Recorder(1.0)
    for _ in range(100):
        recorder.send_lag.record(lag)
    monitor = Monitor()
    monitor.own_cores = cores
    return [reason.partition(":")[0] for reason in invalid_reasons(windows, TIMING, recorder, rate, 0, monitor)]


def test_equal_windows_are_steady_and_valid() -> None:
    windows = [window(200, 0.01)] * 3
    assert steady(windows, TIMING)
    assert reasons(windows) == []


def test_a_drift_is_not() -> None:
    for windows in ([window(200, m) for m in (0.01, 0.013, 0.017)], [window(n, 0.01) for n in (200, 300, 400)]):
        assert not steady(windows, TIMING)
        assert reasons(windows) == ["unstable"]


def test_only_the_last_windows_count() -> None:
    assert steady([window(50, 0.04), *[window(200, 0.01)] * 3], TIMING)


def test_two_windows_are_not_three() -> None:
    assert not steady([window(200, 0.01)] * 2, TIMING)


def test_noise_of_few_requests_is_no_drift() -> None:
    # Medians 15 % apart, each within its own interval of 40 scattered samples.
    assert steady([window(40, m, spread=1.0) for m in (0.010, 0.011, 0.0115)], TIMING)


def test_a_generator_that_is_busy_or_late_is_named() -> None:
    windows = [window(200, 0.01)] * 3
    assert reasons(windows, cores=0.97) == ["client-bound"]
    assert reasons(windows, lag=0.02) == ["client-bound"]
    assert reasons(windows, lag=0.0005) == []


def test_answers_that_do_not_keep_up_are_named() -> None:
    assert reasons([window(200, 0.01)] * 3, rate=250.0) == ["overloaded"]
    assert reasons([window(200, 0.01)] * 3, rate=205.0) == []
