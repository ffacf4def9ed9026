"""Load tests: workers send requests to a target until the figures are steady."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.record import LoadRecord, Throughput, WindowRecord
from shrinkserve.benchmark.load.recorder import Recorder, Window
from shrinkserve.benchmark.load.resources import Monitor, Resources
from shrinkserve.benchmark.load.schedule import Arrivals, ClosedSchedule, OpenSchedule, Schedule
from shrinkserve.benchmark.load.triton_stats import ServerTime, TritonStatistics
from shrinkserve.benchmark.load.validity import Invalid, invalid_reasons, steady
from shrinkserve.benchmark.load.workers import Workers
from shrinkserve.benchmark.stats import Interval, mean_interval
from shrinkserve.benchmark.targets.target import RequestImages, Target
from shrinkserve.benchmark.timing import Timing


@dataclass(frozen=True)
class Load:
    """Result of a load test.

    Attributes:
        target: name of the target.
        batch: images in a request.
        workers: most requests in flight.
        rate: offered requests per second; None for a closed loop.
        arrivals: distribution of the arrivals; None for a closed loop.
        window_seconds: length of a window.
        windows: the measurement, window by window.
        latency: latency of all requests that were due in it.
        unsent: number of requests that were due and not sent when the test ended (open loop).
        server: statistics of the server; None if it keeps none.
        resources: use of this machine.
        reasons: reasons why the figures are not valid.
    """

    target: str
    batch: int
    workers: int
    rate: float | None
    arrivals: Arrivals | None
    window_seconds: float
    windows: list[Window]
    latency: LatencyHistogram
    unsent: int
    server: ServerTime | None
    resources: Resources
    reasons: list[Invalid]

    @property
    def throughput(self) -> float:
        """Images per second."""
        return sum(window.images for window in self.windows) / (self.window_seconds * len(self.windows))

    @property
    def throughput_interval(self) -> Interval:
        """Confidence interval of the throughput, from the differences between windows."""
        return mean_interval([window.images / self.window_seconds for window in self.windows])

    @property
    def valid(self) -> bool:
        """True if the figures can be quoted."""
        return not self.reasons

    def to_record(self) -> LoadRecord:
        """Return the figures with their units."""
        ends = self.throughput_interval
        return LoadRecord(
            target=self.target,
            mode="closed" if self.rate is None else "open",
            batch=self.batch,
            concurrency=self.workers,
            offered_requests_per_second=self.rate,
            arrivals=self.arrivals,
            seconds=self.window_seconds * len(self.windows),
            requests=sum(window.completed for window in self.windows),
            errors=sum(window.errors for window in self.windows),
            unsent=self.unsent,
            images_per_second=self.throughput,
            throughput=Throughput(low=ends.low, high=ends.high, value=self.throughput),
            latency=self.latency.to_record(),
            windows=[
                WindowRecord(
                    requests=window.completed,
                    errors=window.errors,
                    images_per_second=window.images / self.window_seconds,
                    p50_ms=1e3 * window.latency.percentile(50),
                    p99_ms=1e3 * window.latency.percentile(99),
                )
                for window in self.windows
            ],
            server=self.server,
            resources=self.resources,
            valid=self.valid,
            reasons=list(map(str, self.reasons)),
        )


def closed_loop(target: Target, requests: Sequence[RequestImages], concurrency: int, timing: Timing) -> Load:
    """Measure with `concurrency` workers that each have one request in flight at any time.

    Args:
        target: target of the requests.
        requests: requests, sent in turn.
        concurrency: number of workers.
        timing: duration.

    Raises:
        RequestError: the target does not respond, or stops responding.
    """
    return _measure(target, requests, concurrency, ClosedSchedule(), timing)


def open_loop(
    target: Target, requests: Sequence[RequestImages], schedule: OpenSchedule, in_flight: int, timing: Timing
) -> Load:
    """Measure with requests at given times, independent of responses. Latency counts from those times.

    Args:
        target: target of the requests.
        requests: requests, sent in turn.
        schedule: due times.
        in_flight: most requests in flight; further ones wait, and the wait is part of their latency.
        timing: duration.

    Raises:
        RequestError: the target does not respond, or stops responding.
    """
    return _measure(target, requests, in_flight, schedule, timing)


def _measure(
    target: Target, requests: Sequence[RequestImages], workers: int, schedule: Schedule, timing: Timing
) -> Load:
    recorder = Recorder(timing.window)
    counters = TritonStatistics(target.statistics)
    with Workers(target, requests, workers, schedule, recorder) as running:
        running.wait(timing.warmup)
        with Monitor() as monitor:
            counters.begin()
            recorder.begin(perf_counter())
            windows: list[Window] = []
            while len(windows) < timing.most and not steady(windows, timing):
                running.wait(timing.window)
                windows = recorder.windows(len(windows) + 1)
            recorder.finish(perf_counter())
        counters.end()
        unsent = running.drain(timing.drain)
    windows = recorder.windows(len(windows))
    rate, arrivals = (schedule.rate, schedule.arrivals) if isinstance(schedule, OpenSchedule) else (None, None)
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
        server=counters.to_record(),
        resources=monitor.to_record(),
        reasons=invalid_reasons(windows, timing, recorder, rate, unsent, monitor if target.remote else None),
    )
