"""Load tests of a simulated server. Bounds on times hold on a machine of any speed."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.load.validity import Reason
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import RequestError

SHORT = Timing(warmup=0.1, window=0.4, agree=2, most=4, drain=5.0)
FIXED = replace(SHORT, agree=5, most=4)  # never steady: always four windows


def reasons(load: Load) -> set[Reason]:
    return {one.reason for one in load.reasons}


def test_closed_loop_has_one_request_in_flight_per_worker(desk, requests) -> None:
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert load.latency.percentile(50) >= desk.service
    assert load.throughput <= 1 / desk.service
    record = load.to_record()
    assert record.requests == pytest.approx(load.latency.count, abs=1)
    assert record.mode == "closed"
    assert record.seconds == pytest.approx(1.6)


def test_each_worker_opens_a_session_and_no_thread_is_left(desk, requests) -> None:
    closed_loop(desk.target(), requests, 4, SHORT)
    assert desk.sessions == 4
    assert not [t for t in threading.enumerate() if t.name.startswith(("load-", "monitor"))]


def test_all_workers_are_connected_before_the_first_request_is_due(desk, requests) -> None:
    events: list[str] = []

    class Schedule(OpenSchedule):
        def start(self, now: float) -> None:
            events.append("start")
            super().start(now)

    @contextmanager
    def session():
        def first(images):
            if "start" not in events:
                time.sleep(0.05)  # opens a connection
                events.append("connected")
            return desk.predict(images)

        yield first

    open_loop(replace(desk.target(), open=session), requests, Schedule(50.0), 4, SHORT)
    assert events == [*["connected"] * 4, "start"]


def test_latency_has_the_time_in_the_queue(desk, requests) -> None:
    load = closed_loop(desk.target(), requests, 4, FIXED)
    assert load.latency.mean > 3 * desk.service


def test_open_loop_shows_a_stall(desk, requests) -> None:
    desk.pause_at = time.perf_counter() + 0.7
    load = open_loop(desk.target(), requests, OpenSchedule(100.0), 128, FIXED)
    # Of 160 requests the 50 that were due while it paused waited 250 ms on average.
    assert load.latency.percentile(99) > 0.3
    assert load.latency.percentile(90) > 0.1


def test_open_loop_counts_the_wait_of_requests_that_could_not_be_sent(desk, requests) -> None:
    """With two requests in flight, all others that are due during a stall wait in the generator."""
    desk.pause_at = time.perf_counter() + 0.7
    load = open_loop(desk.target(), requests, OpenSchedule(100.0), 2, FIXED)
    # The due time gives a p90 of about 0.34 s; the time of sending would give some milliseconds, as only the two
    # requests in flight see the stall. A slow machine makes the latency longer, never shorter.
    assert load.latency.percentile(90) > 0.1


def test_closed_loop_hides_a_stall(desk, requests) -> None:
    desk.pause_at = time.perf_counter() + 0.7
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert load.latency.longest > 0.4
    slow = sum(count for low, _, count in load.latency.buckets() if low > 0.2)
    assert slow < 0.05 * load.latency.count  # only the requests in flight; in an open loop it is a third of them


def test_rate_above_the_capacity_is_overload(desk, requests) -> None:
    load = open_loop(desk.target(), requests, OpenSchedule(3 / desk.service), 8, replace(FIXED, drain=0.2))
    assert load.unsent > 0
    assert Reason.OVERLOADED in reasons(load)
    assert not load.valid


def test_rate_below_the_capacity_is_no_overload(desk, requests) -> None:
    load = open_loop(desk.target(), requests, OpenSchedule(60.0, "constant"), 32, FIXED)
    assert load.unsent == 0
    assert load.latency.count == pytest.approx(96, abs=2)
    assert Reason.OVERLOADED not in reasons(load)


def test_failed_requests_make_the_figures_invalid(desk, requests) -> None:
    desk.refuse_every = 10
    load = closed_loop(desk.target(), requests, 2, FIXED)
    (error,) = [one for one in load.reasons if one.reason is Reason.ERRORS]
    assert "the queue is full" in error.detail
    record = load.to_record()
    assert record.errors == pytest.approx(record.requests / 9, rel=0.3)


def test_server_that_goes_away_ends_the_test(desk, requests) -> None:
    desk.gone_after = 60
    with pytest.raises(RequestError, match="desk: no response"):
        closed_loop(desk.target(), requests, 4, SHORT)
    assert not [t for t in threading.enumerate() if t.name.startswith("load-")]


def test_closed_loop_raises_error_while_connecting(desk, requests) -> None:
    @contextmanager
    def closed():
        raise RequestError("desk: is closed")
        yield

    with pytest.raises(RequestError, match="desk: is closed"):
        closed_loop(replace(desk.target(), open=closed), requests, 3, SHORT)


def test_other_exceptions_are_raised(desk, requests) -> None:
    def broken(_):
        raise ZeroDivisionError

    @contextmanager
    def session():
        yield broken

    with pytest.raises(ZeroDivisionError):
        closed_loop(replace(desk.target(), open=session), requests, 2, SHORT)


def test_few_requests_make_the_figures_invalid(desk, requests) -> None:
    desk.service = 0.1
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert Reason.TOO_FEW in reasons(load)
