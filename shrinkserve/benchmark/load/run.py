"""A load test: workers ask a target at a pace until the figures hold still, and the verdict on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor
from shrinkserve.benchmark.load.schedule import ClosedSchedule, OpenSchedule, Schedule
from shrinkserve.benchmark.load.triton_stats import TritonStatistics, split
from shrinkserve.benchmark.load.validity import invalid_reasons, steady
from shrinkserve.benchmark.load.workers import Workers
from shrinkserve.benchmark.stats import Interval, mean_interval
from shrinkserve.benchmark.targets.target import Images, Target
from shrinkserve.benchmark.timing import Timing


@dataclass(frozen=True)
class Load:
    """What a load test found; `to_dict` says it with units.

    Attributes:
        target: its name.
        batch: images a request.
        workers: requests that can be under way at once.
        rate: requests a second that were offered; None in a closed loop.
        arrivals: "poisson" or "constant"; None in a closed loop.
        window_seconds: the length of a window.
        windows: the measurement, window by window.
        latency: of all requests that were due in it.
        unsent: requests that were due and not sent when the test ended (open loop).
        server: the serving side's own account of the requests; None when it keeps none.
        resources: of this machine during the test.
        reasons: why the figures are not valid; empty when they are.
    """

    target: str
    batch: int
    workers: int
    rate: float | None
    arrivals: str | None
    window_seconds: float
    windows: list[Window]
    latency: LatencyHistogram
    unsent: int
    server: dict[str, Any] | None
    resources: dict[str, Any]
    reasons: list[str]

    @property
    def throughput(self) -> float:
        """Images answered a second."""
        return sum(window.images for window in self.windows) / (self.window_seconds * len(self.windows))

    @property
    def throughput_interval(self) -> Interval:
        """Confidence interval of the throughput, from how much the windows differ; images a second."""
        return mean_interval([window.images / self.window_seconds for window in self.windows])

    @property
    def valid(self) -> bool:
        """Whether the figures may be quoted."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """As plain data; the unit is in the name."""
        return {
            "target": self.target,
            "mode": "closed" if self.rate is None else "open",
            "batch": self.batch,
            "concurrency": self.workers,
            "offered_requests_per_second": self.rate,
            "arrivals": self.arrivals,
            "seconds": self.window_seconds * len(self.windows),
            "requests": sum(window.completed for window in self.windows),
            "errors": sum(window.errors for window in self.windows),
            "unsent": self.unsent,
            "images_per_second": self.throughput,
            "throughput": {"unit": "images/s", "value": self.throughput, **asdict(self.throughput_interval)},
            "latency": self.latency.to_dict(),
            "windows": [window.to_dict(self.window_seconds) for window in self.windows],
            "server": self.server,
            "resources": self.resources,
            "valid": self.valid,
            "reasons": self.reasons,
        }


def closed_loop(target: Target, requests: Sequence[Images], concurrency: int, timing: Timing) -> Load:
    """`concurrency` workers, each with one request under way at any time.

    Args:
        target: what is measured.
        requests: what is sent in turn.
        concurrency: number of workers.
        timing: how long.

    Raises:
        RequestError: nobody answers, or nobody answers any more.
    """
    return _measure(target, requests, concurrency, ClosedSchedule(), timing)


def open_loop(target: Target, requests: Sequence[Images], pace: OpenSchedule, in_flight: int, timing: Timing) -> Load:
    """Requests at given times, whether or not earlier ones were answered; latency counts from those times.

    Args:
        target: what is measured.
        requests: what is sent in turn.
        pace: the times.
        in_flight: most requests under way at once; further ones wait, and their waiting is in their latency.
        timing: how long.

    Raises:
        RequestError: nobody answers, or nobody answers any more.
    """
    return _measure(target, requests, in_flight, pace, timing)


def _measure(target: Target, requests: Sequence[Images], workers: int, pace: Schedule, timing: Timing) -> Load:
    recorder = Recorder(timing.window)
    crew = Workers(target, requests, workers, pace, recorder)
    counters = TritonStatistics(target.statistics)
    with crew:
        crew.wait(timing.warmup)
        with Monitor() as monitor:
            counters.begin()
            recorder.begin(perf_counter())
            windows: list[Window] = []
            while len(windows) < timing.most and not steady(windows, timing):
                crew.wait(timing.window)
                windows = recorder.windows(len(windows) + 1)
            recorder.finish(perf_counter())
        counters.end()
        unsent = crew.drain(timing.drain)
    windows = recorder.windows(len(windows))
    rate, arrivals = (pace.rate, pace.arrivals) if isinstance(pace, OpenSchedule) else (None, None)
    return Load(
        target=target.name,
        batch=len(requests[0]),
        workers=workers,
        rate=rate,
        arrivals=arrivals,
        window_seconds=timing.window,
        windows=windows,
        latency=LatencyHistogram.merge(window.latency for window in windows),
        unsent=unsent,
        server=split(counters),
        resources=monitor.to_dict(),
        reasons=invalid_reasons(windows, timing, recorder, rate, unsent, monitor if target.remote else None),
    )
