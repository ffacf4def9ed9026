"""Compute batches in worker processes, in order.

The pixels of a batch travel through anonymous shared memory that is allocated before the workers start, and all else
through a pipe. So nothing depends on the size of /dev/shm, which is 64 MB in a container by default.

Every end of a worker ends the run: an exception, a signal, or no batch for `WATCHDOG_SECONDS`. The workers are killed
when the iterator is closed, when it fails and when the program exits; they end by themselves when the trainer is gone.
"""

from __future__ import annotations

import atexit
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import numpy as np

from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels

T = TypeVar("T")

AHEAD = 2
"""Batches that each worker computes ahead of the reader."""
WATCHDOG_SECONDS = 300.0
"""Without a batch for so long the run ends: a worker hangs, for example on a file system that does not respond."""
WATCHDOG_PARTS = 10
PARENT_CHECK_SECONDS = 1.0
MEMORY_HINT = (
    "it may be out of memory: set a smaller data.workers or train.batch_size, or give the container more memory"
)


@dataclass(frozen=True)
class Failure:
    """An exception in a worker, as text: what happened and where."""

    error: str
    place: str
    memory: bool


@dataclass
class _Worker:
    """Process: our end of its pipe, and the buffers for its batches, uint8 [AHEAD, *shape]."""

    process: ForkProcess
    connection: Connection
    buffers: Pixels


_running: WeakSet[_Pool[Any]] = WeakSet()


class _Pool(Generic[T]):
    """The processes of one pass over the data."""

    def __init__(
        self, load: Callable[[int, Pixels], T], shape: tuple[int, ...], count: int, watchdog: float | None
    ) -> None:
        self._watchdog = WATCHDOG_SECONDS if watchdog is None else watchdog
        self.workers: list[_Worker] = []
        _kill_workers_at_exit()
        _running.add(self)
        try:
            for _ in range(count):
                self.workers.append(_start(load, shape))
        except OSError as exc:
            self.kill()
            what = f"cannot start {count} data loader processes ({exc.strerror})"
            raise DataError(what, hint="set a smaller data.workers, or allow more processes and memory") from exc

    def receive(self, worker: _Worker) -> T:
        """Return the worker's next result; raise `DataError` if the worker ends or hangs."""
        process, connection = worker.process, worker.connection
        if not self._ready(worker):
            what = f"data loader process {process.pid}: no batch for {self._watchdog:.0f} seconds"
            raise DataError(what, hint="check that the storage of the dataset responds")
        try:
            result: T | Failure = connection.recv()
        except (EOFError, OSError):
            raise _ended(process) from None
        if isinstance(result, Failure):
            hint = MEMORY_HINT if result.memory else "set data.workers=0 to see the traceback, and report it"
            raise DataError(f"data loader process failed: {result.error} (at {result.place})", hint=hint)
        return result

    def _ready(self, worker: _Worker) -> bool:
        """Wait for a result or the end of the worker. Time in which this process is suspended counts as one part."""
        part = self._watchdog / WATCHDOG_PARTS
        return any(wait([worker.connection, worker.process.sentinel], timeout=part) for _ in range(WATCHDOG_PARTS))

    def kill(self) -> None:
        """End all processes at once. They ignore SIGTERM, and have nothing to save."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()


def in_processes(
    load: Callable[[int, Pixels], T],
    numbers: range,
    shape: tuple[int, ...],
    workers: int,
    watchdog: float | None = None,
) -> Generator[tuple[Pixels, T], None, None]:
    """Call ``load(number, buffer)`` for each number in worker processes and yield the results in order.

    Args:
        load: fills the buffer and returns a small result that can be pickled.
        numbers: the numbers.
        shape: of a buffer, uint8.
        workers: number of processes.
        watchdog: seconds without a batch before the run ends; None for `WATCHDOG_SECONDS`.

    Yields:
        A copy of the buffer, and the result of `load`.

    Raises:
        DataError: an exception in a worker, a worker that was killed, or one that hangs.
    """
    pool = _Pool(load, shape, min(workers, len(numbers)), watchdog)
    try:
        count = len(pool.workers)
        for position, number in enumerate(numbers[: count * AHEAD]):
            _send(pool.workers[position % count], number, position // count)
        for position in range(len(numbers)):
            worker, slot = pool.workers[position % count], position // count % AHEAD
            result = pool.receive(worker)
            images = worker.buffers[slot].copy()
            if (following := position + count * AHEAD) < len(numbers):
                _send(worker, numbers[following], slot)
            yield images, result
    finally:
        pool.kill()


def _send(worker: _Worker, number: int, slot: int) -> None:
    try:
        worker.connection.send((number, slot))
    except OSError:
        raise _ended(worker.process) from None


def _ended(process: ForkProcess) -> DataError:
    process.join(timeout=5)
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return DataError(f"data loader process {process.pid} was killed by {name}", hint=MEMORY_HINT)
    return DataError(f"data loader process {process.pid} ended with exit code {code}", hint=MEMORY_HINT)


def _start(load: Callable[[int, Pixels], T], shape: tuple[int, ...]) -> _Worker:
    context = get_context("fork")  # the workers share the memory that is mapped here
    memory = mmap.mmap(-1, AHEAD * int(np.prod(shape)))
    buffers = np.frombuffer(memory, dtype=np.uint8).reshape(AHEAD, *shape)
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(load, buffers, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, buffers)


def _work(load: Callable[[int, Pixels], T], buffers: Pixels, connection: Connection, parent: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The trainer then finishes its step and writes a
    # checkpoint, for which it needs its batches.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # OpenMP's threads do not survive the fork
    with suppress(ConnectionError, EOFError):
        while True:
            while not connection.poll(PARENT_CHECK_SECONDS):
                if os.getppid() != parent:
                    return
            number, slot = connection.recv()
            try:
                connection.send(load(number, buffers[slot]))
            except ConnectionError:
                raise
            except Exception as exc:  # noqa: BLE001 - the trainer reports it
                connection.send(_failure(exc))


def _failure(exc: Exception) -> Failure:
    last = traceback.extract_tb(exc.__traceback__)[-1]
    text = " ".join(f"{type(exc).__name__}: {exc}".split())
    return Failure(text, f"{last.filename}:{last.lineno}", isinstance(exc, MemoryError))


@cache
def _kill_workers_at_exit() -> None:
    """Kill the workers of unfinished epochs when the program ends.

    Functions run at exit in the reverse order of their registration, so this one runs before multiprocessing's, which
    would send SIGTERM and wait for ever.
    """

    @atexit.register
    def kill_workers() -> None:
        for pool in list(_running):
            pool.kill()
