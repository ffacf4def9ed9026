"""`shrinkserve quickstart`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shrinkserve.quickstart import Summary


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(quickstart)


def quickstart(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("quickstart"),
    recipe: Annotated[
        str, typer.Option(help="Shipped recipe for the digits: 'digits', or 'smoke' in seconds.")
    ] = "digits",
    min_top1: Annotated[float, typer.Option(min=0, max=1, help="Top-1 that the server must reach.")] = 0.97,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of one window of the load tests.")] = 1.0,
) -> None:
    """Digits to a real Triton on this machine, in minutes. Every command of the path is shown as it runs."""
    from shrinkserve.quickstart import Settings, run_quickstart

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped then, too
    _render(run_quickstart(Settings(folder, recipe, min_top1, window), _say))


def _say(line: str) -> None:
    print(line, flush=True)  # before the output of the process that follows


def _render(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="quickstart")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for name, seconds in summary.stages:
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("in all", f"{sum(seconds for _, seconds in summary.stages):.1f}", style="bold")
    console.print(table)
    paths = Table(title="what it made")
    for heading in ("what", "where"):
        paths.add_column(heading, no_wrap=True)
    for what, path in summary.paths.items():
        paths.add_row(what, str(path))
    console.print(paths)
