"""Worker threads of a load test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from threading import Barrier, BrokenBarrierError, Event, Thread
from time import perf_counter

from shrinkserve.benchmark.load.lifo_lock import LifoLock
from shrinkserve.benchmark.load.recorder import Recorder
from shrinkserve.benchmark.load.schedule import OpenSchedule, Schedule
from shrinkserve.benchmark.targets.target import Predict, RequestImages, Target
from shrinkserve.errors import RequestError


class Workers:
    """Threads that send requests to a target. A context manager; leaving it ends all threads.

    Args:
        target: target of the requests; each worker opens its own connection.
        requests: requests, sent in turn.
        workers: number of threads.
        schedule: due times.
        recorder: receives the results.

    Raises:
        RequestError: on entering, if a worker cannot reach the target.
    """

    def __init__(
        self, target: Target, requests: Sequence[RequestImages], workers: int, schedule: Schedule, recorder: Recorder
    ) -> None:
        self._target, self._requests, self._schedule, self._recorder = target, requests, schedule, recorder
        self._closing, self._abandon = Event(), Event()
        self._failure: Exception | None = None
        self._turns = LifoLock() if isinstance(schedule, OpenSchedule) else nullcontext()
        self._ready = Barrier(workers + 1, action=lambda: schedule.start(perf_counter()))
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
        """Wait while the workers send requests.

        Raises:
            RequestError: all requests fail.
        """
        if not self._closing.wait(seconds):
            return
        if self._failure is not None:
            raise self._failure
        raise RequestError(f"{self._target.name}: no more responses ({self._recorder.error})")

    def drain(self, seconds: float) -> int:
        """Wait for the responses of requests that were due before `Recorder.finish`.

        Returns:
            The number of requests that were due and not sent.
        """
        self._closing.set()
        deadline = perf_counter() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - perf_counter()))
        self._abandon.set()
        unsent = 0
        while isinstance(self._schedule, OpenSchedule) and self._schedule.due() < self._recorder.end:
            unsent += 1
        return unsent

    def _join(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        try:
            with self._target.open() as predict:
                with suppress(RequestError):  # an error of the server is seen and counted again in the test
                    predict(self._requests[number % len(self._requests)])  # opens the connection before the test
                self._ready.wait()
                while (moment := self._next()) is not None:
                    due, early = moment
                    self._send(predict, self._requests[number % len(self._requests)], due, waited=early)
                    number += len(self._threads)
        except BrokenBarrierError:
            return
        except Exception as exc:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = exc
            self._closing.set()
            self._ready.abort()

    def _next(self) -> tuple[float, bool] | None:
        """Wait until this worker's next request is due.

        Returns:
            The due time, and True if the worker was waiting for it; None at the end of the test.
        """
        with self._turns:
            if self._abandon.is_set() or (due := self._schedule.due()) >= self._recorder.end:
                return None
            early = due - perf_counter()
            return None if early > 0 and self._closing.wait(early) else (due, early > 0)

    def _send(self, predict: Predict, images: RequestImages, due: float, *, waited: bool) -> None:
        started = perf_counter()
        try:
            predict(images)
        except RequestError as exc:
            self._recorder.failure(perf_counter(), exc)
            if self._recorder.gone:
                self._closing.set()
        else:
            self._recorder.success(due, started, perf_counter(), len(images), waited=waited)
