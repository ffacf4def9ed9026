from __future__ import annotations

import pytest

from shrinkserve.benchmark.load.slo import LEAST, Slo, search
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import ConfigError

SHORT = Timing(warmup=0.05, window=0.3, agree=2, most=2, drain=0.5)


def test_promises() -> None:
    assert Slo.parse("p99=20ms") == Slo(99.0, 0.02)
    assert Slo.parse("p99.9=1.5s") == Slo(99.9, 1.5)
    assert str(Slo.parse("p95=800us")) == "p95=0.8ms"


@pytest.mark.parametrize("text", ["20ms", "p99", "p100=20ms", "p99=fast", "p0=1s", "max=20ms"])
def test_what_is_no_promise(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo"):
        Slo.parse(text)


def test_the_rate_that_is_found_lies_below_the_capacity(desk, requests) -> None:
    desk.service = 0.005
    found = search(desk.target(), requests, Slo(50, 1.0), 64, SHORT, lambda _: None)
    top = found["closed_loop_requests_per_second"]
    assert 0 < top <= 1 / desk.service
    assert LEAST * top <= found["requests_per_second"] <= 1.2 * top
    rates = [trial["offered_requests_per_second"] for trial in found["trials"]]
    assert rates[0] == pytest.approx(LEAST * top)
    assert len(set(rates)) == len(rates) == 7


def test_a_promise_below_the_service_time_is_given_up_at_once(desk, requests) -> None:
    found = search(desk.target(), requests, Slo(50, 1e-4), 64, SHORT, lambda _: None)
    assert found["requests_per_second"] == 0
    assert len(found["trials"]) == 1
