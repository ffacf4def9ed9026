"""Whether the figures of a load test may be quoted, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor

if TYPE_CHECKING:
    from shrinkserve.benchmark.timing import Timing

TOLERANCE = 0.1
"""Windows agree when each is within this fraction of their mean, as in Triton's perf_analyzer."""
ENOUGH = 100
"""Requests below which a 99th percentile is one or two samples."""
BUSY_CLIENT = 0.85
"""Cores that this process keeps busy from which it may be what is measured: its Python code runs on one."""
LATE_SENDER = 0.1
"""Send lag (99th percentile) against the median latency from which the generator could not keep its times."""


def steady(windows: Sequence[Window], timing: Timing) -> bool:
    """Whether the last windows agree in throughput and in median latency.

    A window also agrees when the mean is inside its own confidence interval: at a few hundred requests a window, ten
    percent are within the noise.
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
) -> list[str]:
    """Every reason why the figures are not valid; none when they are.

    Args:
        windows: the measurement.
        timing: what was asked of it.
        recorder: holds the last fault and how late requests were sent.
        rate: requests a second that were offered; None in a closed loop.
        unsent: requests that were due and not sent.
        generator: this process's use of the machine, where it only generates load.
    """
    completed = sum(window.completed for window in windows)
    errors = sum(window.errors for window in windows)
    offered = rate * timing.window * len(windows) if rate else 0.0
    median = sum(window.latency.percentile(50) for window in windows) / len(windows)
    reasons = []
    if errors:
        reasons.append(f"errors: {errors} of {errors + completed} requests failed, the last with: {recorder.error}")
    if unsent or completed < 0.95 * offered - 1.96 * offered**0.5:
        reasons.append(
            f"overloaded: {completed / (timing.window * len(windows)):.1f} of {rate:.1f} requests/s answered"
        )
    if completed < ENOUGH:
        reasons.append(f"too few: {completed} requests, percentiles need {ENOUGH}")
    elif not steady(windows, timing):
        reasons.append(f"unstable: the last {timing.agree} of {len(windows)} windows differ by over {TOLERANCE:.0%}")
    if generator is not None and generator.own_cores >= BUSY_CLIENT:
        reasons.append(f"client-bound: the load generator used {generator.own_cores:.2f} cores")
    lag = recorder.send_lag.percentile(99) if recorder.send_lag.count else 0.0
    if lag > max(LATE_SENDER * median, 1e-3):
        reasons.append(f"client-bound: requests left up to {1e3 * lag:.1f} ms late (p99)")
    return reasons
