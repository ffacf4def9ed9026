"""Thread-safe recorder of a load test: counts and latencies by window."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.errors import ShrinkServeError

GIVE_UP_AFTER = 20
"""Number of consecutive failures, over all workers, after which the target counts as gone."""


@dataclass
class Window:
    """Part of a measurement.

    Attributes:
        completed: requests with a response in this window.
        images: images in those requests.
        errors: requests that failed in this window.
        latency: latency of the requests that were due in this window, counted from their due time.
    """

    completed: int = 0
    images: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


class Recorder:
    """Collect the results of all workers. Results before `begin` (warm-up) are dropped.

    Throughput is counted in the window of the response, latency in the window of the due time. So the wait that a
    stalled server causes in an open loop is attributed to the time at which the user would have sent the request.

    Args:
        seconds: length of a window.

    Attributes:
        error: the last error.
        send_lag: delay between due time and sending, of requests whose worker was waiting for the due time.
        end: end of the measurement.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.error: ShrinkServeError | None = None
        self.send_lag = LatencyHistogram()
        self._start = float("inf")
        self.end = float("inf")
        self._failed_in_a_row = 0
        self._windows: defaultdict[int, Window] = defaultdict(Window)
        self._lock = Lock()

    def begin(self, now: float) -> None:
        """Start the first window."""
        self._start = now

    def finish(self, now: float) -> None:
        """End the measurement: later due times and responses are not counted."""
        self.end = now

    @property
    def gone(self) -> bool:
        """True after `GIVE_UP_AFTER` consecutive failures."""
        return self._failed_in_a_row >= GIVE_UP_AFTER

    def success(self, due: float, started: float, ended: float, images: int, *, waited: bool) -> None:
        """Record a response.

        Args:
            due: time at which the request was due, on the clock of `time.perf_counter`.
            started: time at which it was sent.
            ended: time of its response.
            images: number of images in it.
            waited: True if its worker waited for the due time, so that a late start is caused by the generator.
        """
        with self._lock:
            self._failed_in_a_row = 0
            if self._start <= ended < self.end:
                window = self._at(ended)
                window.completed += 1
                window.images += images
            if self._start <= due < self.end:
                self._at(due).latency.record(ended - due)
                if waited:
                    self.send_lag.record(started - due)

    def failure(self, ended: float, error: ShrinkServeError) -> None:
        """Record a failed request."""
        with self._lock:
            self._failed_in_a_row += 1
            self.error = error
            if self._start <= ended < self.end:
                self._at(ended).errors += 1

    def windows(self, count: int) -> list[Window]:
        """Return the first `count` windows."""
        with self._lock:
            return [self._windows[number] for number in range(count)]

    def _at(self, moment: float) -> Window:
        return self._windows[int((moment - self._start) / self.seconds)]
