from __future__ import annotations

import pytest

from shrinkserve.benchmark.load.recorder import GIVE_UP_AFTER, Recorder
from shrinkserve.errors import RequestError


@pytest.fixture
def recorder() -> Recorder:
    """A recorder with windows of one second; the measurement begins at 10 s."""
    made = Recorder(1.0)
    made.begin(10.0)
    return made


def test_latency_counts_from_the_due_time(recorder: Recorder) -> None:
    """A request that was due at 10.0 s and sent 0.4 s late took 0.5 s for its user, not the 0.1 s of the server."""
    recorder.success(due=10.0, started=10.4, ended=10.5, images=1, waited=False)
    (window,) = recorder.windows(1)
    assert window.latency.longest == pytest.approx(0.5, rel=2e-3)


def test_latency_belongs_to_the_window_of_the_due_time_and_throughput_to_that_of_the_response(
    recorder: Recorder,
) -> None:
    recorder.success(due=10.9, started=10.9, ended=11.2, images=4, waited=True)
    first, second = recorder.windows(2)
    assert (first.latency.count, first.completed, first.images) == (1, 0, 0)
    assert (second.latency.count, second.completed, second.images) == (0, 1, 4)


def test_warm_up_and_drain_are_not_counted(recorder: Recorder) -> None:
    recorder.finish(12.0)
    recorder.success(due=9.9, started=9.9, ended=9.95, images=1, waited=True)
    recorder.success(due=12.1, started=12.1, ended=12.2, images=1, waited=True)
    recorder.success(due=11.9, started=11.9, ended=12.2, images=1, waited=True)
    windows = recorder.windows(2)
    assert sum(window.completed for window in windows) == 0
    assert sum(window.latency.count for window in windows) == 1


def test_send_lag_counts_only_workers_that_waited(recorder: Recorder) -> None:
    recorder.success(due=10.0, started=10.3, ended=10.4, images=1, waited=False)
    assert recorder.send_lag.count == 0
    recorder.success(due=10.0, started=10.002, ended=10.4, images=1, waited=True)
    assert recorder.send_lag.longest == pytest.approx(0.002, rel=2e-3)


def test_target_is_gone_after_failures_in_a_row(recorder: Recorder) -> None:
    for _ in range(GIVE_UP_AFTER - 1):
        recorder.failure(10.1, RequestError("no server"))
    recorder.success(due=10.1, started=10.1, ended=10.2, images=1, waited=True)
    recorder.failure(10.3, RequestError("no server"))
    assert not recorder.gone
    for _ in range(GIVE_UP_AFTER - 1):
        recorder.failure(10.4, RequestError("no server"))
    assert recorder.gone
