"""`shrinkserve data`: make and look after datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(name="data", help="Make and look after datasets.", no_args_is_help=True)
    group.command()(digits)
    app.add_typer(group)


def digits(target: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the dataset.")]) -> None:
    """Write scikit-learn's 1,797 handwritten digits as JPEG in TFRecord shards: real images, no download."""
    from shrinkserve.data.digits import write_digits

    counts = write_digits(target)
    typer.echo(f"wrote {target}: {counts['train']} training and {counts['validation']} validation images, 10 classes")
