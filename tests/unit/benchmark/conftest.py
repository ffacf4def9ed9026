"""A simulated server, and records of measurements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest

from shrinkserve.benchmark.accuracy.agreement import ComparisonRecord
from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.accuracy.score import Proportion, ScoreRecord, pack_flags
from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.record import LoadRecord, Throughput
from shrinkserve.benchmark.load.resources import Resources
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.report.record import BenchRecord, DatasetRecord, StageRecord
from shrinkserve.benchmark.stats import Estimate
from shrinkserve.benchmark.targets.target import Logits, Pixels, Predict, Target
from shrinkserve.errors import RequestError


class Desk:
    """Simulated server: one request at a time takes `service` seconds. It can pause, refuse requests and go away."""

    def __init__(self, service: float = 0.002) -> None:
        self.service = service
        self.pause_at: float | None = None
        self.pause = 0.5
        self.gone_after: int | None = None
        self.refuse_every = 0
        self.handled = 0
        self.sessions = 0
        self._lock = threading.Lock()

    def predict(self, images: Pixels) -> Logits:
        with self._lock:
            self.handled += 1
            if self.gone_after is not None and self.handled > self.gone_after:
                raise RequestError("desk: no response")
            if self.refuse_every and self.handled % self.refuse_every == 0:
                raise RequestError("desk: the queue is full")
            if self.pause_at is not None and time.perf_counter() > self.pause_at:
                self.pause_at = None
                time.sleep(self.pause)
            time.sleep(self.service)
        return np.zeros((len(images), 10), np.float32)

    @contextmanager
    def _session(self) -> Iterator[Predict]:
        self.sessions += 1
        yield self.predict

    def target(self, kind: str = "server") -> Target:
        return Target("desk", kind, "float32", "desk", self._session)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """Return a function that makes a target out of a function from images to logits."""

    def make(name: str, answer: Predict, *, exact: bool = True) -> Target:
        return Target(name, "onnx", "float32", name, lambda: nullcontext(answer), exact=exact)

    return make


@pytest.fixture
def requests() -> list[Pixels]:
    return [np.zeros((1, 8, 8, 3), np.uint8)]


IMAGES = 364
"""Images of the records below."""


def estimate(value: float, spread: float = 0.0) -> Estimate:
    return Estimate(value - spread, value + spread, value)


@pytest.fixture
def make_load() -> Callable[..., LoadRecord]:
    """Return a function that makes the record of a load test whose requests all took `p99` milliseconds."""

    def make(target: str = "server grpc", images: float = 50.0, p99: float = 20.0, **more: object) -> LoadRecord:
        histogram = LatencyHistogram()
        for _ in range(200):
            histogram.record(p99 / 1e3)
        latency = histogram.to_record()
        spread = {"p50": estimate(9.0, 0.1), "p99": estimate(p99, 1.0)}
        load = LoadRecord(
            target=target,
            mode="closed",
            batch=1,
            concurrency=4,
            offered_requests_per_second=None,
            arrivals=None,
            seconds=2.0,
            requests=200,
            errors=0,
            unsent=0,
            images_per_second=images,
            throughput=Throughput(images - 2.0, images + 2.0, images),
            latency=replace(latency, percentiles={**latency.percentiles, **spread}),
            windows=[],
            server=None,
            resources=Resources(0.1),
            valid=True,
            reasons=[],
        )
        return replace(load, **more)

    return make


@pytest.fixture
def make_score() -> Callable[..., ScoreRecord]:
    """Return a function that makes the accuracy of a stage; `right` has a character for each image."""

    def make(stage: str, top1: float = 0.98, right: str = "1" * IMAGES) -> ScoreRecord:
        proportion = Proportion(top1 - 0.005, top1 + 0.005, top1, right=round(top1 * IMAGES))
        return ScoreRecord(stage, len(right), proportion, proportion, pack_flags(right))

    return make


@pytest.fixture
def make_record(make_score: Callable[..., ScoreRecord]) -> Callable[..., BenchRecord]:
    """Return a function that makes the record of a checkpoint and its servers: name of the server -> flips."""

    def make(flips: dict[str, int], *, gated: bool = True, top1: float = 0.98, **more: object) -> BenchRecord:
        names = ["checkpoint ema", *flips]
        accuracy = AccuracyRecord(
            images=IMAGES,
            fingerprint="ab",
            order="o",
            stages=[make_score(name, top1 if number else 0.98) for number, name in enumerate(names)],
            comparisons=[
                ComparisonRecord("checkpoint ema", name, gated, IMAGES, count, 0, 0, 0.0, [], 1.0)
                for name, count in flips.items()
            ],
            planned=IMAGES,
            batch=32,
        )
        record = BenchRecord(
            model="digits",
            version=1,
            weights_sha256="0" * 64,
            preprocess={"size": 32},
            classes=["a", "b"],
            dataset=DatasetRecord("data", "validation", IMAGES),
            stages=[
                StageRecord(
                    name, "server" if number else "checkpoint", "float32", "id", True, None, 0 if number else None
                )
                for number, name in enumerate(names)
            ],
            reference=0,
            left_out=[],
            environment=environment(),
            gates=Gates(),
            accuracy=accuracy,
            partial=None,
        )
        return replace(record, **more)

    return make
