"""The workers of a load test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from threading import Barrier, BrokenBarrierError, Event, Thread
from time import perf_counter

from shrinkserve.benchmark.load.lifo_lock import LifoLock
from shrinkserve.benchmark.load.recorder import Recorder
from shrinkserve.benchmark.load.schedule import OpenSchedule, Schedule
from shrinkserve.benchmark.targets.target import Answer, Images, Target
from shrinkserve.errors import RequestError


class Workers:
    """Threads that ask until they are told to stop. A context manager; leaving it ends them all.

    Args:
        target: what they ask; each opens it for itself.
        requests: what they send in turn.
        workers: how many there are.
        pace: when a request is due.
        recorder: where their answers go.

    Raises:
        RequestError: on entering, when a worker cannot reach the target.
    """

    def __init__(
        self, target: Target, requests: Sequence[Images], workers: int, pace: Schedule, recorder: Recorder
    ) -> None:
        self._target, self._requests, self._pace, self._recorder = target, requests, pace, recorder
        self._closing, self._abandon = Event(), Event()
        self._failure: Exception | None = None
        self._turns = LifoLock() if isinstance(pace, OpenSchedule) else nullcontext()
        self._ready = Barrier(workers + 1, action=lambda: pace.start(perf_counter()))
        self._threads = [Thread(target=self._work, args=(n,), name=f"load-{n}", daemon=True) for n in range(workers)]

    def __enter__(self) -> Workers:
        for thread in self._threads:
            thread.start()
        try:
            self._ready.wait()
        except BrokenBarrierError:
            self._join()
            if self._failure is None:
                raise
            raise self._failure from None
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.finish(perf_counter())
        self._abandon.set()
        self._join()

    def wait(self, seconds: float) -> None:
        """Let the workers work.

        Raises:
            RequestError: all requests fail.
        """
        if not self._closing.wait(seconds):
            return
        if self._failure is not None:
            raise self._failure
        raise RequestError(f"{self._target.name}: stopped answering ({self._recorder.error})")

    def drain(self, seconds: float) -> int:
        """After `Recorder.finish`: let what was due be answered, and count the requests that never were sent."""
        self._closing.set()
        deadline = perf_counter() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - perf_counter()))
        self._abandon.set()
        unsent = 0
        while isinstance(self._pace, OpenSchedule) and self._pace.due() < self._recorder.end:
            unsent += 1
        return unsent

    def _join(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        try:
            with self._target.open() as answer:
                with suppress(RequestError):  # what is wrong with the server is seen again, and counted, in a moment
                    answer(self._requests[number % len(self._requests)])  # opens the connection, which takes its time
                self._ready.wait()
                while (moment := self._next()) is not None:
                    due, early = moment
                    self._ask(answer, self._requests[number % len(self._requests)], due, waited=early)
                    number += len(self._threads)
        except BrokenBarrierError:
            return
        except Exception as exc:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = exc
            self._closing.set()
            self._ready.abort()

    def _next(self) -> tuple[float, bool] | None:
        """Wait for the time at which this worker is to ask: that time, and whether it was awaited; None at the end."""
        with self._turns:
            if self._abandon.is_set() or (due := self._pace.due()) >= self._recorder.end:
                return None
            early = due - perf_counter()
            return None if early > 0 and self._closing.wait(early) else (due, early > 0)

    def _ask(self, answer: Answer, images: Images, due: float, *, waited: bool) -> None:
        started = perf_counter()
        try:
            answer(images)
        except RequestError as exc:
            self._recorder.failure(perf_counter(), exc)
            if self._recorder.gone:
                self._closing.set()
        else:
            self._recorder.success(due, started, perf_counter(), len(images), waited=waited)
