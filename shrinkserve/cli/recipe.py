"""`shrinkserve recipe`: document, list and import recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Show, list and import training recipes.")
    group.command("show")(show)
    group.command("list")(list_recipes)
    group.command("import")(import_recipe)
    app.add_typer(group, name="recipe")


def show(
    recipe: Annotated[str | None, typer.Argument(help="A TOML file, or the name of a shipped recipe.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Print the default of each key, without a recipe.")
    ] = False,
) -> None:
    """Print a recipe with the meaning, range and default of every key. The output is a recipe file."""
    from shrinkserve.config import document_recipe, load_recipe
    from shrinkserve.errors import ConfigError

    if (recipe is None) != defaults:
        raise ConfigError("recipe show", expected="a RECIPE or --defaults", hint="see `shrinkserve recipe list`")
    typer.echo(document_recipe(None if recipe is None else load_recipe(recipe, settings or [])), nl=False)


def list_recipes() -> None:
    """List the recipes that come with the package."""
    from shrinkserve.config import recipe_names

    for name in recipe_names():
        typer.echo(name)


def import_recipe(
    proto: Annotated[Path, typer.Option(help="The .prototxt network file; the recipe names it by this path.")],
    solver: Annotated[Path, typer.Option(help="The .solver file of its training.")],
) -> None:
    """Convert AutoShrink's network and solver files to a recipe."""
    from shrinkserve.arch.solver import import_recipe as convert

    typer.echo(convert(proto, solver).to_toml(), nl=False)
