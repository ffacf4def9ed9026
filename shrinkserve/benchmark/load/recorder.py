"""What the workers of a load test saw, window by window."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.errors import ShrinkServeError

GIVE_UP_AFTER = 20
"""So many failures in a row, over all workers, mean that nobody answers any more."""


@dataclass
class Window:
    """A stretch of the measurement.

    Attributes:
        completed: requests that were answered in it.
        images: images in those.
        errors: requests that failed in it.
        latency: of the requests that were due in it, from the time they were due.
    """

    completed: int = 0
    images: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def to_dict(self, seconds: float) -> dict[str, Any]:
        """As plain data."""
        return {
            "requests": self.completed,
            "errors": self.errors,
            "images_per_second": self.images / seconds,
            "p50_ms": 1e3 * self.latency.percentile(50),
            "p99_ms": 1e3 * self.latency.percentile(99),
        }


class Recorder:
    """Collects from all workers; what happens before `begin` is warm-up and forgotten.

    Throughput is counted when an answer arrives, latency where the request was due: in an open loop a request that
    a stalled server answers late belongs to the moment at which its user would have sent it.

    Args:
        seconds: length of a window.
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
        """The first window starts now."""
        self._start = now

    def finish(self, now: float) -> None:
        """What is due or answered from now on belongs to no window."""
        self.end = now

    @property
    def gone(self) -> bool:
        """Whether nobody answers any more."""
        return self._failed_in_a_row >= GIVE_UP_AFTER

    def success(self, due: float, started: float, ended: float, images: int, *, waited: bool) -> None:
        """One answer.

        Args:
            due: when the request should have been sent, on the clock of `time.perf_counter`.
            started: when it was.
            ended: when its answer was there.
            images: images in it.
            waited: whether its worker was there in time, so that a late start is the generator's own fault.
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
        """One request without an answer."""
        with self._lock:
            self._failed_in_a_row += 1
            self.error = error
            if self._start <= ended < self.end:
                self._at(ended).errors += 1

    def windows(self, count: int) -> list[Window]:
        """The first `count` windows."""
        with self._lock:
            return [self._windows[number] for number in range(count)]

    def _at(self, moment: float) -> Window:
        return self._windows[int((moment - self._start) / self.seconds)]
