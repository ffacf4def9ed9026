"""Progress bars of TensorRT's build phases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from shrinkserve.exporting.engine.library import TrtObject
from shrinkserve.terminal import Progress


@contextmanager
def monitor(trt: ModuleType, *, enabled: bool) -> Iterator[TrtObject]:
    """Return an `IProgressMonitor` that draws one bar for each phase; None if not enabled.

    Ctrl-C ends the build at its next step; the builder runs in C++ and does not notice it otherwise.
    """
    if not enabled:
        yield None
        return
    with Progress() as bars:
        yield _monitor(trt, bars)


def _monitor(trt: ModuleType, bars: Progress) -> TrtObject:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """TensorRT calls it from the builder's threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            indent = "" if parent_phase is None else "  "
            bars.update(phase_name, 0, num_steps, label=indent + phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                bars.update(phase_name, step + 1, self.steps[phase_name])
            except KeyboardInterrupt:
                return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            bars.remove(phase_name)

    return Monitor()
