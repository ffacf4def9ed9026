"""Lock for the workers of an open loop."""

from __future__ import annotations

from threading import Event, Lock


class LifoLock:
    """Lock that the latest waiting thread gets first; a context manager.

    In an open loop one worker at a time waits for the next due time. With last in, first out, a low rate uses only a
    few warm threads and connections; the others are used during a stall.
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
