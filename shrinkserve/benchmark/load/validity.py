"""Validity of a load test: reasons why its figures cannot be quoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor
from shrinkserve.benchmark.timing import Timing

TOLERANCE = 0.1
"""Windows agree if each is within this fraction of their mean, as in Triton's perf_analyzer."""
ENOUGH = 100
"""Least number of requests; with fewer, a 99th percentile is one or two samples."""
BUSY_CLIENT = 0.85
"""Above this many busy cores the load generator itself is the bottleneck (its Python code can use at most one)."""
LATE_SENDER = 0.1
"""Largest send lag (99th percentile) of a valid test, as a fraction of the median latency."""


class Reason(Enum):
    """Reason why figures are not valid."""

    ERRORS = "errors"
    OVERLOADED = "overloaded"
    TOO_FEW = "too few"
    UNSTABLE = "unstable"
    CLIENT_BOUND = "client-bound"


@dataclass(frozen=True)
class Invalid:
    """Reason with its figures; as text ``reason: detail``."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


def steady(windows: Sequence[Window], timing: Timing) -> bool:
    """Return True if the last windows agree in throughput and in median latency.

    A window also agrees if the mean is inside its confidence interval: with a few hundred requests in a window, ten
    percent are noise.
    """
    last = windows[-timing.agree :]
    if len(last) < timing.agree or sum(window.completed for window in last) < ENOUGH:
        return False
    completed = sum(window.completed for window in last) / len(last)
    median = sum(window.latency.percentile(50) for window in last) / len(last)
    return all(_agrees(window, completed, median) for window in last)


def _agrees(window: Window, completed: float, median: float) -> bool:
    noise = max(TOLERANCE, 1.96 / completed**0.5)  # a count of independent arrivals is Poisson
    ends = window.latency.interval(50)
    near = abs(window.latency.percentile(50) - median) <= TOLERANCE * median or ends.low <= median <= ends.high
    return abs(window.completed - completed) <= noise * completed and near


def invalid_reasons(
    windows: Sequence[Window],
    timing: Timing,
    recorder: Recorder,
    rate: float | None,
    unsent: int,
    generator: Monitor | None,
) -> list[Invalid]:
    """Return every reason why the figures are not valid.

    Args:
        windows: the measurement.
        timing: its settings.
        recorder: has the last error and the send lag.
        rate: offered requests per second; None for a closed loop.
        unsent: number of requests that were due and not sent.
        generator: CPU use of this process, if it only generates load.
    """
    completed = sum(window.completed for window in windows)
    errors = sum(window.errors for window in windows)
    seconds = timing.window * len(windows)
    offered = rate * seconds if rate else 0.0
    median = sum(window.latency.percentile(50) for window in windows) / len(windows)
    lag = recorder.send_lag.percentile(99) if recorder.send_lag.count else 0.0
    found = []
    if errors:
        detail = f"{errors} of {errors + completed} requests failed, last error: {recorder.error}"
        found.append(Invalid(Reason.ERRORS, detail))
    # 5 % below the offered rate and the noise of Poisson arrivals are allowed.
    if unsent or completed < 0.95 * offered - 1.96 * offered**0.5:
        found.append(Invalid(Reason.OVERLOADED, f"{completed / seconds:.1f} responses/s to {rate:.1f} requests/s"))
    if completed < ENOUGH:
        found.append(Invalid(Reason.TOO_FEW, f"{completed} requests, percentiles need {ENOUGH}"))
    elif not steady(windows, timing):
        detail = f"the last {timing.agree} of {len(windows)} windows differ by more than {TOLERANCE:.0%}"
        found.append(Invalid(Reason.UNSTABLE, detail))
    if generator is not None and generator.own_cores >= BUSY_CLIENT:
        found.append(Invalid(Reason.CLIENT_BOUND, f"the load generator used {generator.own_cores:.2f} cores"))
    if lag > max(LATE_SENDER * median, 1e-3):
        found.append(Invalid(Reason.CLIENT_BOUND, f"requests were sent up to {1e3 * lag:.1f} ms late (p99)"))
    return found
