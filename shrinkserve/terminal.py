"""Tables, progress bars and lines on a terminal, and silent loggers. Text from outside is escaped."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shrinkserve.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

UNLIMITED = 10_000
"""Width in characters where the output is not a terminal: nothing is wrapped."""


def print_line(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print `text` at once; control characters other than line breaks and tabs are shown as escapes.

    Args:
        text: the line.
        err: print to stderr.
        end: printed after the line.
    """
    print(printable(str(text), keep="\n\t"), end=end, file=sys.stderr if err else sys.stdout, flush=True)


def print_fields(fields: Mapping[str, object], *, err: bool = False) -> None:
    """Print one line for each field, with the values aligned."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        print_line(f"{name:<{width}}  {value}", err=err)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    left: Collection[str] = (),
    bold: Collection[int] = (),
    err: bool = False,
) -> None:
    """Print a table: with lines and wrapped to the width of a terminal, as plain columns elsewhere.

    Args:
        headings: of the columns.
        rows: cells in the order of the headings; missing cells at the end stay empty.
        title: a line above the table.
        left: headings of the columns of text, which are aligned to the left, as the first column is.
        bold: numbers of the rows to emphasise.
        err: print to stderr.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console(err=err)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for number, heading in enumerate(headings):
        text = number == 0 or heading in left
        table.add_column(Text(printable(heading)), justify="left" if text else "right", no_wrap=not text)
    for number, row in enumerate(rows):
        cells = [Text(printable(str(cell))) for cell in row]
        table.add_row(*cells, style="bold" if number in bold else None)
    if title:
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
    console.print(table)


class Progress:
    """Bars on a terminal while a block runs. Elsewhere nothing or, with `lines`, a line after each tenth.

    Example:
        >>> with Progress() as progress:
        ...     for done in range(1, 4):
        ...         progress.update("images", done, 3)

    Args:
        err: draw on stderr; False for stdout.
        lines: print lines where the output is not a terminal.
        enabled: False to print nothing at all.
        transient: remove the bars at the end.
    """

    def __init__(self, *, err: bool = True, lines: bool = False, enabled: bool = True, transient: bool = True) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = _console(err=err, quiet=not enabled)
        self._lines = lines and enabled and not self._console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=transient,
            disable=not self.drawn,
        )

    @property
    def drawn(self) -> bool:
        """True where bars are drawn: on a terminal, unless disabled."""
        return self._console.is_terminal and not self._console.quiet

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: object) -> None:
        """Print a line above the bars."""
        self._console.print(printable(str(text), keep="\n\t"), markup=False, highlight=False, soft_wrap=True)

    def update(self, bar: str, done: int, total: int, *, label: str | None = None, figures: str | None = None) -> None:
        """Add a bar, or change it. May be called from any thread.

        Args:
            bar: its name.
            done: of `total`.
            total: the length of the bar.
            label: text before the bar; the name at first.
            figures: text after the bar; empty at first.
        """
        if self._lines and (done == total or done * 10 // total != (done - 1) * 10 // total):
            self.say(f"{done}/{total} {label or bar}")
        if not self.drawn:
            return
        if bar not in self._tasks:
            self._tasks[bar] = self._bars.add_task(printable(label or bar), total=total, figures="")
        task = self._tasks[bar]
        self._bars.update(task, completed=done, total=total)
        if label is not None:
            self._bars.update(task, description=printable(label))
        if figures is not None:
            self._bars.update(task, figures=printable(figures))

    def remove(self, bar: str) -> None:
        """Remove a bar; nothing happens if there is none of this name."""
        if bar in self._tasks:
            self._bars.remove_task(self._tasks.pop(bar))


def _console(*, err: bool, quiet: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, quiet=quiet, highlight=False, width=None if stream.isatty() else UNLIMITED)


@contextmanager
def quiet(name: str, level: int = logging.ERROR) -> Iterator[None]:
    """Silence a logger's messages below a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
