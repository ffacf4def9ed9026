"""The load engine against a desk whose behaviour is known; no assertion depends on how fast the machine is."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from shrinkserve.benchmark.load.run import closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import RequestError

SHORT = Timing(warmup=0.1, window=0.4, agree=2, most=4, drain=5.0)
FIXED = replace(SHORT, agree=5, most=4)  # never steady: always four windows


def test_closed_loop_asks_one_at_a_time(desk, requests) -> None:
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert load.latency.percentile(50) >= desk.service
    assert load.throughput <= 1 / desk.service
    record = load.to_dict()
    assert record["requests"] == pytest.approx(load.latency.count, abs=1)
    assert record["mode"] == "closed"
    assert record["seconds"] == pytest.approx(1.6)


def test_every_worker_has_its_own_way_in(desk, requests) -> None:
    closed_loop(desk.target(), requests, 4, SHORT)
    assert desk.sessions == 4
    assert not [t for t in threading.enumerate() if t.name.startswith(("load-", "monitor"))]


def test_connections_are_opened_before_the_clock_runs(desk, requests) -> None:
    """A first request that takes long, as it opens a connection, is in nobody's latency."""
    opened: set[int] = set()

    def slow_at_first(images):
        if threading.get_ident() not in opened:
            opened.add(threading.get_ident())
            time.sleep(0.4)
        return desk.predict(images)

    @contextmanager
    def session():
        yield slow_at_first

    load = open_loop(replace(desk.target(), open=session), requests, OpenSchedule(50.0), 16, replace(FIXED, warmup=0.0))
    assert load.latency.longest < 0.3


def test_a_queue_of_four_waits_four_services(desk, requests) -> None:
    load = closed_loop(desk.target(), requests, 4, FIXED)
    assert load.latency.mean > 3 * desk.service


def test_a_stall_of_half_a_second_shows_in_p99_of_an_open_loop(desk, requests) -> None:
    desk.pause_at = time.perf_counter() + 0.7
    load = open_loop(desk.target(), requests, OpenSchedule(100.0), 128, FIXED)
    # Of 160 requests the 50 that were due while it paused waited 250 ms on average.
    assert load.latency.percentile(99) > 0.3
    assert load.latency.percentile(90) > 0.1
    assert load.latency.percentile(50) < 0.1


def test_open_loop_counts_the_wait_of_requests_that_could_not_be_sent(desk, requests) -> None:
    """With two requests in flight, all others that are due during a stall wait in the generator."""
    desk.pause_at = time.perf_counter() + 0.7
    load = open_loop(desk.target(), requests, OpenSchedule(100.0), 2, FIXED)
    # The due time gives a p90 of about 0.34 s; the time of sending would give some milliseconds, as only the two
    # requests in flight see the stall. A slow machine makes the latency longer, never shorter.
    assert load.latency.percentile(90) > 0.1


def test_a_closed_loop_would_have_hidden_it(desk, requests) -> None:
    desk.pause_at = time.perf_counter() + 0.7
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert load.latency.longest > 0.4
    assert load.latency.percentile(99) < 0.3  # one of hundreds of requests


def test_more_than_the_server_can_is_overloaded(desk, requests) -> None:
    load = open_loop(desk.target(), requests, OpenSchedule(3 / desk.service), 8, replace(FIXED, drain=0.2))
    assert load.unsent > 0
    assert any(reason.startswith("overloaded") for reason in load.reasons)
    assert not load.valid


def test_a_rate_that_it_can_hold_is_answered_in_full(desk, requests) -> None:
    load = open_loop(desk.target(), requests, OpenSchedule(60.0, "constant"), 32, FIXED)
    assert load.unsent == 0
    assert load.latency.count == pytest.approx(96, abs=2)
    assert not any(reason.startswith("overloaded") for reason in load.reasons)


def test_failed_requests_make_figures_invalid_and_are_no_latency(desk, requests) -> None:
    desk.refuse_every = 10
    load = closed_loop(desk.target(), requests, 2, FIXED)
    (reason,) = [reason for reason in load.reasons if reason.startswith("errors")]
    assert "the queue is full" in reason
    record = load.to_dict()
    assert record["errors"] == pytest.approx(record["requests"] / 9, rel=0.3)


def test_a_server_that_goes_away_ends_the_test(desk, requests) -> None:
    desk.gone_after = 60
    with pytest.raises(RequestError, match=r"desk: stopped answering \(desk: no server answers\)"):
        closed_loop(desk.target(), requests, 4, SHORT)
    assert not [t for t in threading.enumerate() if t.name.startswith("load-")]


def test_a_server_that_is_not_there_is_said_at_once(desk, requests) -> None:
    @contextmanager
    def closed():
        raise RequestError("desk: is closed")
        yield

    with pytest.raises(RequestError, match="desk: is closed"):
        closed_loop(replace(desk.target(), open=closed), requests, 3, SHORT)


def test_a_bug_in_what_is_measured_is_not_hidden(desk, requests) -> None:
    def broken(_):
        raise ZeroDivisionError

    @contextmanager
    def session():
        yield broken

    with pytest.raises(ZeroDivisionError):
        closed_loop(replace(desk.target(), open=session), requests, 2, SHORT)


def test_too_few_requests_are_not_quoted(desk, requests) -> None:
    desk.service = 0.1
    load = closed_loop(desk.target(), requests, 1, FIXED)
    assert any(reason.startswith("too few") for reason in load.reasons)
