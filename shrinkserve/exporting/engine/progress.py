"""TensorRT's build phases as progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def monitor(trt: ModuleType, *, enabled: bool) -> Iterator[Any]:
    """An `IProgressMonitor` that draws one bar a phase; None where it is not wanted.

    Ctrl-C ends the build at its next step: the builder runs in C++ and would not notice otherwise.
    """
    if not enabled:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        yield _monitor(trt, bars)


def _monitor(trt: ModuleType, bars: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Called from the builder's threads; rich's bars take that."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            depth = "" if parent_phase is None else "  "
            self.phases[phase_name] = bars.add_task(depth + phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                bars.update(self.phases[phase_name], completed=step + 1)
            except KeyboardInterrupt:
                return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.phases:
                bars.remove_task(self.phases.pop(phase_name))

    return Monitor()
