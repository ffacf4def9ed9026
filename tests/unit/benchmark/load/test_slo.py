from __future__ import annotations

import pytest

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.recorder import Window
from shrinkserve.benchmark.load.resources import Resources
from shrinkserve.benchmark.load.run import Load
from shrinkserve.benchmark.load.slo import LEAST, STEPS, Slo, search
from shrinkserve.benchmark.load.validity import Invalid, Reason
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import ConfigError

FAILED = {Reason.ERRORS, Reason.OVERLOADED}
SHORT = Timing(warmup=0.05, window=0.3, agree=2, most=2, drain=0.5)


@pytest.mark.parametrize(
    ("text", "slo", "shown"),
    [
        ("p99=20ms", Slo(99.0, 0.02), "p99=20ms"),
        ("p99.9=1.5s", Slo(99.9, 1.5), "p99.9=1500ms"),
        ("p95=500us", Slo(95.0, 0.0005), "p95=0.5ms"),
    ],
)
def test_slo_parse_reads_percentile_and_duration(text: str, slo: Slo, shown: str) -> None:
    assert Slo.parse(text) == slo
    assert str(slo) == shown


@pytest.mark.parametrize("text", ["20ms", "p99", "p100=20ms", "p99=fast", "p0=1s", "max=20ms"])
def test_slo_parse_rejects_other_text(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo"):
        Slo.parse(text)


@pytest.mark.parametrize(("reason", "met"), [(reason, reason not in FAILED) for reason in Reason])
def test_objective_is_not_met_if_requests_failed(reason: Reason, met: bool) -> None:
    histogram = LatencyHistogram()
    histogram.record(0.01)
    windows = [Window(1, 1, 0, histogram)]
    load = Load("x", 1, 1, 9.0, "poisson", 1.0, windows, histogram, 0, None, Resources(0.1), [Invalid(reason, "x")])
    assert Slo(99, 0.02).met_by(load) == met
    assert not Slo(99, 0.005).met_by(load)


def test_search_finds_a_rate_below_the_capacity(desk, requests) -> None:
    desk.service = 0.005
    found = search(desk.target(), requests, Slo(50, 1.0), 64, SHORT, lambda _: None)
    top = found.closed_loop_requests_per_second
    assert 0 < top <= 1 / desk.service
    assert LEAST * top <= found.requests_per_second <= 1.2 * top
    rates = [trial.offered_requests_per_second for trial in found.trials]
    assert rates[0] == pytest.approx(LEAST * top)
    assert len(set(rates)) == len(rates) == STEPS + 1


def test_search_ends_after_one_trial_if_the_lowest_rate_is_too_high(desk, requests) -> None:
    found = search(desk.target(), requests, Slo(50, 1e-4), 64, SHORT, lambda _: None)
    assert found.requests_per_second == 0
    assert len(found.trials) == 1
