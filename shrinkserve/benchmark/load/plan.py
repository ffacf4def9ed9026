"""Plan of the load tests of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import Arrivals, OpenSchedule
from shrinkserve.benchmark.targets.target import Pixels, RequestImages, Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.data import Dataset, evaluation_batches
from shrinkserve.preprocess import Preprocess

REQUESTS = 16
"""Number of different requests in a load test."""


@dataclass(frozen=True)
class LoadPlan:
    """Load tests of each target.

    Attributes:
        concurrency: closed loops with this many workers, one image in a request.
        rates: open loops with this many requests per second, one image in a request.
        arrivals: distribution of the arrivals in open loops.
        batches: closed loops of one worker with this many images in a request.
        in_flight: most requests in flight in an open loop.
        everywhere: also test the local stages, not only the servers.
        timing: duration of each test.
    """

    concurrency: Sequence[int] = (1, 4)
    rates: Sequence[float] = ()
    arrivals: Arrivals = "poisson"
    batches: Sequence[int] = ()
    in_flight: int = 64
    everywhere: bool = False
    timing: Timing = field(default_factory=Timing)

    def targets(self, stages: Sequence[Target]) -> list[Target]:
        """Return the stages that are tested."""
        return [target for target in stages if target.remote or self.everywhere]


def run_loads(
    plan: LoadPlan, targets: Sequence[Target], requests: Requests, say: Callable[[str], None]
) -> Iterator[Load]:
    """Run the load tests of a plan. Targets take turns, so that no target has all of its tests in a row.

    Args:
        plan: the tests.
        targets: targets; those that take encoded images get one image in a request only.
        requests: source of the requests.
        say: receives a line before each test.

    Raises:
        RequestError: a server does not respond.
    """
    for concurrency in dict.fromkeys(plan.concurrency):
        for target in targets:
            say(f"load: {target.name}, concurrency {concurrency}")
            yield closed_loop(target, requests.of(target), concurrency, plan.timing)
    for size in dict.fromkeys(plan.batches):
        for target in targets:
            if not target.encoded and not (size == 1 and 1 in plan.concurrency):  # the same test as above
                say(f"load: {target.name}, batch {size}")
                yield closed_loop(target, requests.of(target, size), 1, plan.timing)
    for rate in dict.fromkeys(plan.rates):
        for target in targets:
            say(f"load: {target.name}, {rate:g} requests/s {plan.arrivals}")
            yield open_loop(target, requests.of(target), OpenSchedule(rate, plan.arrivals), plan.in_flight, plan.timing)


@dataclass(frozen=True)
class Requests:
    """Source of requests: different images of a dataset.

    Attributes:
        dataset: the images.
        preprocess: the preprocessing of the network.
    """

    dataset: Dataset
    preprocess: Preprocess

    def of(self, target: Target, batch: int = 1) -> list[RequestImages]:
        """Return requests in the form that a target takes, with `batch` images in each."""
        if not target.encoded:
            return list(pixel_requests(self.dataset, self.preprocess, batch))
        order = np.linspace(0, len(self.dataset) - 1, min(len(self.dataset), REQUESTS), dtype=int)
        return [[self.dataset.record(int(index)).encoded] * batch for index in order]


def pixel_requests(dataset: Dataset, preprocess: Preprocess, batch: int) -> list[Pixels]:
    """Return requests with different images of a dataset, uint8 [batch, S, S, 3] each."""
    count = min(len(dataset), REQUESTS * batch)
    images = np.concatenate([part.images for part in evaluation_batches(dataset, preprocess, batch, limit=count)])
    starts = range(0, count, batch)
    return [np.take(images, range(start, start + batch), axis=0, mode="wrap") for start in starts]
