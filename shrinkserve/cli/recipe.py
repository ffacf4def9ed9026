"""`shrinkserve recipe`: recipes from other files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Make training recipes.")
    group.command("import")(import_recipe)
    app.add_typer(group, name="recipe")


def import_recipe(
    proto: Annotated[Path, typer.Option(help="The .prototxt network file; the recipe names it by this path.")],
    solver: Annotated[Path, typer.Option(help="The .solver file of its training.")],
) -> None:
    """Print the recipe of AutoShrink's network and solver files. It is TOML that `train` takes."""
    from shrinkserve.arch.solver import import_recipe as read

    typer.echo(read(proto, solver).to_toml(), nl=False)
