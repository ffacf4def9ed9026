"""Maps over many items with bounded concurrency and results in order, for threads and for asyncio tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future, wait
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

TURN_SECONDS = 1.0
"""Longest wait for a result in which the main thread may not notice a signal."""


class _Workers(Generic[T, R]):
    """Daemon threads that apply one function, started when there is work for one more.

    Not a `ThreadPoolExecutor`: it takes no work after the main thread has ended, and the interpreter waits for its
    threads at exit, however long their work takes.
    """

    def __init__(self, function: Callable[[T], R], limit: int) -> None:
        self._function, self._limit = function, limit
        self._queue: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def submit(self, item: T) -> Future[R]:
        if len(self._threads) < self._limit:
            self._threads.append(Thread(target=self._work, name="shrinkserve-worker", daemon=True))
            self._threads[-1].start()
        future: Future[R] = Future()
        self._queue.put((future, item))
        return future

    def stop(self, *, wait: bool) -> None:
        for _ in self._threads:
            self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, item = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._function(item))
                except BaseException as exc:  # noqa: BLE001 - the reader of the result raises it
                    future.set_exception(exc)
            del job, future, item  # a result must not live until the next item comes


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, wait: bool = True
) -> Generator[R, None, None]:
    """Map items in threads and yield the results in the order of the items.

    At most ``workers + 1`` items are taken before their results are read, so memory stays bounded. A single item is
    mapped in the caller's thread.

    Args:
        function: applied to each item.
        items: taken as they are needed.
        workers: number of threads; 0 maps in the caller's thread.
        wait: when the generator is closed early, wait for the items that are being mapped.
    """
    source = iter(items)
    head = list(islice(source, 2))
    if workers == 0 or len(head) < 2:
        yield from map(function, chain(head, source))
        return
    pool = _Workers(function, workers)
    pending: deque[Future[R]] = deque()
    try:
        for item in chain(head, source):
            pending.append(pool.submit(item))
            if len(pending) > workers:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        for future in pending:
            future.cancel()
        pool.stop(wait=wait)


def _result(future: Future[R]) -> R:
    """Return the result of a future. Wait in short turns: Ctrl-C that comes just before a wait does not end it."""
    while not future.done():
        wait([future], timeout=TURN_SECONDS)
    return future.result()


async def ordered_tasks(work: Iterable[Coroutine[object, object, R]], limit: int) -> AsyncGenerator[R]:
    """Run coroutines as tasks, at most `limit` at a time, and yield the results in order.

    Closing the generator cancels the tasks that are still running.
    """
    pending: deque[asyncio.Task[R]] = deque()
    try:
        for one in work:
            pending.append(asyncio.create_task(one))
            if len(pending) == limit:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
