"""Progress of a training run for people: bars on a terminal, else one line per epoch."""

from __future__ import annotations

from shrinkserve.terminal import Progress
from shrinkserve.training.events import EventKind, TrainEvent


class Display:
    """Default callback of `train`; a context manager."""

    def __init__(self) -> None:
        self._progress = Progress(err=False, transient=False)

    def __enter__(self) -> Display:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()

    def __call__(self, event: TrainEvent) -> None:
        """Show an event. A closed pipe does not stop the run: rich exits once, and prints nothing from then on."""
        try:
            self._show(event)
        except SystemExit as exc:
            if not isinstance(exc.__context__, BrokenPipeError):
                raise

    def _show(self, event: TrainEvent) -> None:
        if event.kind is EventKind.MESSAGE:
            self._progress.say(event.message)
        elif event.kind is EventKind.STEP:
            done, total = event.epoch * event.steps + event.step, event.epochs * event.steps
            self._progress.update("run", done, total)
            self._progress.update("epoch", event.step, event.steps, label=f"epoch {event.epoch + 1}/{event.epochs}")
        elif event.kind is EventKind.FIGURES and event.figures:
            found = event.figures
            figures = f"loss {found.loss:.3f}  top-1 {found.top1:.1%}  {found.images_per_second:,.0f} images/s"
            self._progress.update("epoch", event.step, event.steps, figures=figures)
        elif event.kind is EventKind.EPOCH:
            self._progress.say(epoch_line(event))
            if event.evaluation:
                figures = f"validation top-1 {event.evaluation.top1:.2%}"
                done, total = event.epoch * event.steps, event.epochs * event.steps
                self._progress.update("run", done, total, figures=figures)


def epoch_line(event: TrainEvent) -> str:
    """Return the line that sums up an epoch."""
    parts = [f"epoch {event.epoch}/{event.epochs}"]
    if (found := event.figures) is not None:
        parts.append(f"loss {found.loss:.3f}  top-1 {found.top1:.1%}  {found.images_per_second:,.0f} images/s")
    if event.evaluation is not None:
        parts.append(f"| validation (EMA): loss {event.evaluation.loss:.3f}  top-1 {event.evaluation.top1:.2%}")
    return "  ".join([*parts, f"ETA {duration(event.seconds_left)}"])


def duration(seconds: float) -> str:
    """Return seconds as ``2:05`` or ``31:02:05``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
