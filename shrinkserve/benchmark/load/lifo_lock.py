"""Whose turn it is among the workers of an open loop."""

from __future__ import annotations

from threading import Event, Lock


class LifoLock:
    """A lock that the latest to ask for gets first; a context manager.

    One worker at a time waits for the next due time, and of the others the one that was busy last comes next. So a
    low rate is sent by a few warm threads and connections, however many stand by for a stall.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: list[Event] = []
        self._taken = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.pop().set()
            else:
                self._taken = False
