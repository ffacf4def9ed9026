"""Things that answer, made on the spot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from shrinkserve.benchmark.targets.target import Answer, Logits, Pixels, Target
from shrinkserve.errors import RequestError


class Desk:
    """A server with one clerk: every request takes `service` seconds, one at a time; it can pause and go away."""

    def __init__(self, service: float = 0.002) -> None:
        self.service = service
        self.pause_at: float | None = None
        self.pause = 0.5
        self.gone_after: int | None = None
        self.refuse_every = 0
        self.answered = 0
        self.sessions = 0
        self._lock = threading.Lock()

    def predict(self, images: Pixels) -> Logits:
        with self._lock:
            self.answered += 1
            if self.gone_after is not None and self.answered > self.gone_after:
                raise RequestError("desk: no server answers")
            if self.refuse_every and self.answered % self.refuse_every == 0:
                raise RequestError("desk: the queue is full")
            if self.pause_at is not None and time.perf_counter() > self.pause_at:
                self.pause_at = None
                time.sleep(self.pause)
            time.sleep(self.service)
        return np.zeros((len(images), 10), np.float32)

    @contextmanager
    def _session(self) -> Iterator[Answer]:
        self.sessions += 1
        yield self.predict

    def target(self, kind: str = "server") -> Target:
        return Target("desk", kind, "float32", "desk", self._session)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """A target of the given name around a function from images to logits."""

    def make(name: str, answer: Answer, *, exact: bool = True) -> Target:
        return Target(name, "onnx", "float32", name, lambda: nullcontext(answer), exact=exact)

    return make


@pytest.fixture
def requests() -> list[Pixels]:
    return [np.zeros((1, 8, 8, 3), np.uint8)]
