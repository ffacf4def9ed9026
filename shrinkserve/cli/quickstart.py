"""`shrinkserve quickstart`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(quickstart)


def quickstart(
    folder: Annotated[Path, typer.Argument(help="Folder for all files.")] = Path("quickstart"),
    recipe: Annotated[
        str, typer.Option(help="Recipe for the digits: 'digits', or 'smoke', which takes seconds.")
    ] = "digits",
    min_top1: Annotated[float, typer.Option(min=0, max=1, help="Required top-1 of the served model.")] = 0.95,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of one window of the load tests.")] = 1.0,
) -> None:
    """Run all stages on this machine, with images of digits. It prints each command before it runs."""
    from shrinkserve.api.quickstart import quickstart as run
    from shrinkserve.terminal import print_line, print_table

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM must stop the server, too
    summary = run(folder, recipe=recipe, min_top1=min_top1, window=window, say=print_line)
    rows = [(name, f"{seconds:.1f}") for name, seconds in summary.stages]
    total = sum(seconds for _, seconds in summary.stages)
    print_line("")
    print_table(("stage", "seconds"), [*rows, ("total", f"{total:.1f}")], bold=[len(rows)])
    print_line("")
    print_table(("created", "path"), summary.paths.items(), left=["path"])
