"""Stop requests by signal, and a watchdog for a run that makes no progress."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import psutil

STOP_GRACE = 120.0
"""Seconds without progress after a stop request until the watchdog ends the process."""


class StopRequest:
    """Record SIGTERM and SIGINT, so that the loop can stop after an update. A context manager.

    The second SIGINT or SIGTERM gets the handler from before: it ends a program, and raises KeyboardInterrupt in a
    notebook. Outside the main thread, where Python allows no handlers, no signal is recorded.

    Attributes:
        signal: number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Watchdog:
    """End a process that makes no progress. A context manager.

    The main thread may be blocked in a library, so no exception can reach it: the watchdog prints one line and the
    stack of each thread, kills the child processes and ends the process with exit code 2.

    Args:
        timeout: seconds without `progress` that are allowed; None disables the watchdog.
        stop: after a stop request at most `STOP_GRACE` seconds are allowed.
    """

    def __init__(self, timeout: float | None, stop: StopRequest) -> None:
        self._timeout, self._stop = timeout, stop
        self._last, self._step, self._done = time.monotonic(), "the start", threading.Event()

    def __enter__(self) -> Watchdog:
        if self._timeout is not None:
            threading.Thread(target=self._watch, args=(self._timeout,), name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def progress(self, step: str) -> None:
        """Report that the run goes on.

        Args:
            step: what was done, for the message.
        """
        self._last, self._step = time.monotonic(), step

    def _watch(self, timeout: float) -> None:
        interval, before = min(1.0, timeout / 4), time.monotonic()
        while not self._done.wait(interval):
            allowed = min(timeout, STOP_GRACE) if self._stop.signal else timeout
            now = time.monotonic()
            self._last += max(0.0, now - before - 2 * interval)  # this process was suspended, for example by Ctrl-Z
            before = now
            if now - self._last > allowed:
                end_process(
                    f"error: training made no progress for {allowed:.0f} s after {self._step}; "
                    "check the disk of the data and the other processes, then give --resume"
                )


def end_process(message: str) -> None:
    """Print a message and the stacks of all threads, kill the child processes, and exit with code 2."""
    print(message, file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr)
    kill_children()
    os._exit(2)


def kill_children() -> None:
    """Kill all processes that this process has started, and theirs, and wait for their end."""
    with suppress(ValueError):  # torch's handler raises an error for a dead loader; only the main thread may replace it
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=3)
