"""The load tests of a measurement, in an order in which no target has all of its tests in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import Arrivals, OpenSchedule
from shrinkserve.benchmark.targets.target import Images, Pixels, Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.data import Dataset, evaluation_batches
from shrinkserve.preprocess import Preprocess

REQUESTS = 16
"""How many different requests a load test sends in turn."""


@dataclass(frozen=True)
class LoadPlan:
    """Which load tests there are.

    Attributes:
        concurrency: closed loops of so many workers, one image a request.
        rates: open loops of so many requests a second, one image a request.
        arrivals: of the open loops.
        batches: closed loops of one worker with so many images a request.
        in_flight: most requests under way at once in an open loop.
        everywhere: test the local stages too, not only the servers.
        timing: how long each lasts.
    """

    concurrency: Sequence[int] = (1, 4)
    rates: Sequence[float] = ()
    arrivals: Arrivals = "poisson"
    batches: Sequence[int] = ()
    in_flight: int = 64
    everywhere: bool = False
    timing: Timing = field(default_factory=Timing)

    def targets(self, stages: Sequence[Target]) -> list[Target]:
        """Those of the stages that are put under load."""
        return [target for target in stages if target.remote or self.everywhere]


def run_loads(
    plan: LoadPlan, targets: Sequence[Target], requests: Requests, say: Callable[[str], None]
) -> Iterator[Load]:
    """Run every load test of a plan.

    Args:
        plan: which.
        targets: what is put under load; those that take encoded images are asked for one image a request only.
        requests: what is sent.
        say: told before each test.

    Raises:
        RequestError: a server does not answer.
    """
    for concurrency in dict.fromkeys(plan.concurrency):
        for target in targets:
            say(f"load: {target.name}, concurrency {concurrency}")
            yield closed_loop(target, requests.of(target), concurrency, plan.timing)
    for size in dict.fromkeys(plan.batches):
        for target in targets:
            if not target.encoded and not (size == 1 and 1 in plan.concurrency):  # which is the same test
                say(f"load: {target.name}, batch {size}")
                yield closed_loop(target, requests.of(target, size), 1, plan.timing)
    for rate in dict.fromkeys(plan.rates):
        for target in targets:
            say(f"load: {target.name}, {rate:g} requests/s {plan.arrivals}")
            yield open_loop(target, requests.of(target), OpenSchedule(rate, plan.arrivals), plan.in_flight, plan.timing)


@dataclass(frozen=True)
class Requests:
    """What load tests send: different real images of a dataset.

    Attributes:
        dataset: where they are from.
        preprocess: what a network expects.
    """

    dataset: Dataset
    preprocess: Preprocess

    def of(self, target: Target, batch: int = 1) -> list[Images]:
        """Requests of the kind that a target takes, `batch` images in each."""
        if not target.encoded:
            return list(payload(self.dataset, self.preprocess, batch))
        order = np.linspace(0, len(self.dataset) - 1, min(len(self.dataset), REQUESTS), dtype=int)
        return [[self.dataset.record(int(index)).encoded] * batch for index in order]


def payload(dataset: Dataset, preprocess: Preprocess, batch: int) -> list[Pixels]:
    """Requests for load tests: different real images, `batch` in each, uint8 [batch, S, S, 3]."""
    count = min(len(dataset), REQUESTS * batch)
    images = np.concatenate([part.images for part in evaluation_batches(dataset, preprocess, batch, limit=count)])
    starts = range(0, count, batch)
    return [np.take(images, range(start, start + batch), axis=0, mode="wrap") for start in starts]
