"""When the next request is due: at once (closed loop) or at times drawn before (open loop)."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from time import perf_counter
from typing import Literal, Protocol

import numpy as np

Arrivals = Literal["poisson", "constant"]


class Schedule(Protocol):
    """Hands out due times on the clock of `time.perf_counter`; shared by all workers."""

    def start(self, now: float) -> None:
        """All workers are ready."""

    def due(self) -> float:
        """When the caller's next request is due; never later than the next caller's."""
        ...


class ClosedSchedule:
    """Closed loop: a worker sends as soon as it has its answer, so a slow server is asked less often."""

    def start(self, now: float) -> None:
        """Nothing to prepare."""

    def due(self) -> float:
        return perf_counter()


class OpenSchedule:
    """Open loop: requests are due whether or not earlier ones were answered, as users behave.

    Latency that counts from the due time cannot hide a stall (Tene's "coordinated omission").

    Args:
        rate: requests a second.
        arrivals: "poisson" (independent users, exponential gaps) or "constant" (a clock).
        seed: of the gaps, so that two runs see the same arrivals.
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
