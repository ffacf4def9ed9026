"""Due times of the requests of a load test."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from time import perf_counter
from typing import Literal, Protocol

import numpy as np

Arrivals = Literal["poisson", "constant"]


class Schedule(Protocol):
    """Source of due times on the clock of `time.perf_counter`, shared by all workers."""

    def start(self, now: float) -> None:
        """Start the schedule; all workers are ready."""

    def due(self) -> float:
        """Return the due time of the caller's next request; it is never later than that of the next caller."""
        ...


class ClosedSchedule:
    """Closed loop: a request is due at once, so a slow server receives fewer requests."""

    def start(self, now: float) -> None:
        """Do nothing."""

    def due(self) -> float:
        return perf_counter()


class OpenSchedule:
    """Open loop: due times do not depend on responses, as with independent users.

    Latency from the due time includes the wait for a stalled server (Tene's "coordinated omission").

    Args:
        rate: requests per second.
        arrivals: "poisson" (independent users, exponential gaps) or "constant" (equal gaps).
        seed: seed of the gaps; the same seed gives the same due times.
    """

    _BLOCK = 4096

    def __init__(self, rate: float, arrivals: Arrivals = "poisson", seed: int = 0) -> None:
        self.rate, self.arrivals = rate, arrivals
        self._random = np.random.default_rng(seed)
        self._lock = Lock()
        self._origin = 0.0
        self._times = self._draw()

    def start(self, now: float) -> None:
        self._origin = now

    def due(self) -> float:
        with self._lock:
            return self._origin + next(self._times)

    def _draw(self) -> Iterator[float]:
        last = 0.0
        while True:
            if self.arrivals == "poisson":
                gaps = self._random.exponential(1 / self.rate, self._BLOCK)
            else:
                gaps = np.full(self._BLOCK, 1 / self.rate)
            times = last + np.cumsum(gaps)
            last = float(times[-1])
            yield from times.tolist()
