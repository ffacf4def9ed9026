"""`shrinkserve train` and `shrinkserve eval`: make a run, look at its curves, measure its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from shrinkserve.config import Recipe

RUN_HELP = "Folder of the run, as `train` wrote it."


class _RecipeByDefault(TyperGroup):
    """``train RECIPE ...`` is ``train run RECIPE ...``: the first word is a recipe unless it is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = args if args and args[0] in self.commands else ["run", *args]
        return super().parse_args(ctx, words)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(name="train", cls=_RecipeByDefault, help="Train a network; `train plot RUN` draws its curves.")
    group.command("run")(run)
    app.add_typer(group)


def run(  # noqa: PLR0913, PLR0917 - a command's options
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    data: Annotated[Path, typer.Option("--data", help="Root of the dataset: TFRecord shards or an image folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; runs/NAME if not given.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
    ] = None,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, through torchrun.")] = 1,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", min=0, help="With --nproc: begin again so often after a lost process.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where --out holds a run.")] = False,
    allow_recipe_change: Annotated[
        bool, typer.Option("--allow-recipe-change", help="With --resume: the recipe may be another one.")
    ] = False,
) -> int:
    """Train a network from a recipe; `shrinkserve train plot RUN` draws the curves of a run."""
    from shrinkserve.config import load_recipe
    from shrinkserve.errors import ConfigError

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", do="give one of them")
    loaded = load_recipe(recipe, settings or [])
    out = out or Path("runs") / loaded.name
    if nproc > 1 and "RANK" not in os.environ:
        from shrinkserve.training.launch import launch

        words = ["train", "run", recipe, "--data", str(data), "--out", str(out)]
        words += [word for setting in settings or [] for word in ("--set", setting)]
        flags = {"--resume": resume, "--overwrite": overwrite, "--allow-recipe-change": allow_recipe_change}
        return launch([*words, *(flag for flag, given in flags.items() if given)], nproc, restarts=max_restarts)
    return _train(loaded, data, out, resume=resume, overwrite=overwrite, allow_changes=allow_recipe_change)


def _train(recipe: Recipe, data: Path, out: Path, *, resume: bool, overwrite: bool, allow_changes: bool) -> int:
    """Train in this process, which may be one of many; returns the exit code."""
    # OpenMP's threads otherwise spin while they wait and take the cores from the loader's: 3 to 10 times slower on two
    # cores. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from shrinkserve.errors import ShrinkServeError
    from shrinkserve.training.launch import leave_fault
    from shrinkserve.training.loop import Stopped, restarted, train

    if restarted():  # all processes begin again: what was overwritten once is now to go on
        resume, overwrite = True, False
    try:
        card = train(recipe, data, out, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
    except Stopped as fault:
        return 128 + fault.signal
    except ShrinkServeError as fault:
        if leave_fault(fault):
            return fault.exit_code
        raise
    if os.environ.get("RANK", "0") == "0":
        top1, seconds = card.metrics["top1"], card.metrics["seconds"]
        typer.echo(f"wrote {out}: top-1 {top1:.2%} of the EMA weights on the validation split, {seconds:.0f} s")
    return 0
