"""What a person sees of a run: bars on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from shrinkserve.text import printable
from shrinkserve.training.metrics import Evaluation


class Display:
    """Progress of a run.

    Args:
        epochs: of the run.
        steps: updates an epoch.
        shown: False for ranks that stay silent.
    """

    def __init__(self, epochs: int, steps: int, *, shown: bool) -> None:
        self._epochs, self._steps, self._shown = epochs, steps, shown
        self._console = Console(file=sys.stdout, quiet=not shown, soft_wrap=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
        )
        self._run = TaskID(0)
        self._epoch = TaskID(0)

    def __enter__(self) -> Display:
        self._bars.start()
        # The run's bar counts updates, so that its ETA moves within long epochs.
        self._run = self._bars.add_task("run", total=self._epochs * self._steps, figures="")
        self._epoch = self._bars.add_task("epoch", total=self._steps, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(printable(line, keep="\n\t"), markup=False)

    def step(self, epoch: int, done: int) -> None:
        """`done` updates of `epoch` (from 0) are behind us."""
        if not self._bars.disable:
            self._bars.update(self._run, completed=epoch * self._steps + done)
            self._bars.update(self._epoch, completed=done, description=f"epoch {epoch + 1}/{self._epochs}")

    def training(self, loss: float, top1: float, rate: float) -> None:
        """Figures of the last steps; `rate` in images a second."""
        if not self._bars.disable:
            self._bars.update(self._epoch, figures=f"loss {loss:.3f}  top-1 {top1:.1%}  {rate:,.0f} images/s")

    def epoch(self, done: int, figures: dict[str, float], evaluation: Evaluation | None, remaining: float) -> None:
        """The line of the last of `done` epochs; `remaining` seconds of the run are left."""
        line = f"epoch {done}/{self._epochs}"
        if figures:
            line += f"  loss {figures['loss']:.3f}  top-1 {figures['top1']:.1%}"
            line += f"  {figures['images_per_second']:,.0f} images/s"
        if evaluation is not None:
            line += f"  | validation (EMA): loss {evaluation.loss:.3f}  top-1 {evaluation.top1:.2%}"
            if not self._bars.disable:
                self._bars.update(self._run, figures=f"validation top-1 {evaluation.top1:.2%}")
        self.say(f"{line}  ETA {duration(remaining)}")


def duration(seconds: float) -> str:
    """As ``2:05`` or ``31:02:05``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
