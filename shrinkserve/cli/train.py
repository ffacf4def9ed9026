"""`shrinkserve train` and `shrinkserve eval`: make a run, look at its curves, measure its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkserve.cli.groups import RunByDefault
from shrinkserve.cli.output import say

if TYPE_CHECKING:
    from shrinkserve.config import Recipe

RUN_HELP = "Folder of the run, as `train` wrote it."


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    about = "Train a network; `train plot RUN` draws its curves. `train run --help` lists the options."
    group = typer.Typer(name="train", cls=RunByDefault, help=about)
    group.command("run")(run)
    group.command("plot")(plot)
    app.add_typer(group)
    app.command("eval")(evaluate)


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
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run will take; train nothing.")] = False,
    images_per_second: Annotated[
        float | None, typer.Option("--images-per-second", min=0.001, help="With --plan: speed of one process.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where an update's time goes; train nothing.")
    ] = False,
) -> int:
    """Train a network from a recipe; `shrinkserve train plot RUN` draws the curves of a run."""
    from shrinkserve.config import load_recipe
    from shrinkserve.errors import ConfigError

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", hint="give one of them")
    loaded = load_recipe(recipe, settings or [])
    out = out or Path("runs") / loaded.name
    if plan:
        return _plan(loaded, data, nproc, images_per_second)
    if nproc > 1 and "RANK" not in os.environ:
        from shrinkserve.training.launch import launch

        words = ["train", "run", recipe, "--data", str(data), "--out", str(out)]
        words += [word for setting in settings or [] for word in ("--set", setting)]
        flags = {
            "resume": resume,
            "overwrite": overwrite,
            "allow-recipe-change": allow_recipe_change,
            "profile": profile,
        }
        words += [f"--{flag}" for flag, given in flags.items() if given]
        return launch(words, nproc, restarts=max_restarts)
    # OpenMP's threads otherwise spin while they wait and take the cores from the loader's: 3 to 10 times slower on two
    # cores. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if profile:
        return _profile(loaded, data)
    return _train(loaded, data, out, resume=resume, overwrite=overwrite, allow_changes=allow_recipe_change)


def _plan(recipe: Recipe, data: Path, processes: int, images_per_second: float | None) -> int:
    from shrinkserve.training.plan import plan_training

    found = plan_training(recipe, data, processes=processes, images_per_second=images_per_second)
    hours = "give --images-per-second (see --profile)" if found.hours is None else f"{found.hours:,.2f}"
    lines = {
        "images": f"{found.training_images:,} train, {found.validation_images:,} validation; {found.classes} classes",
        "total batch": f"{found.total_batch} = {recipe.train.batch_size} x {recipe.train.accumulate} accumulated "
        f"x {found.processes} processes",
        "updates": f"{found.steps:,} = {found.steps_an_epoch:,} an epoch x {recipe.schedule.epochs} epochs",
        "peak rate": f"{found.peak_rate:g}",
        "parameters": f"{found.parameters:,}",
        "memory": f"{(found.state_bytes + found.activation_bytes) / 2**30:.2f} GiB a process, about: "
        f"{found.activation_bytes / 2**30:.2f} activations, {found.state_bytes / 2**30:.2f} weights and optimiser",
        "hours": hours,
    }
    for name, value in lines.items():
        typer.echo(f"{name:<12} {value}")
    return 0


def _profile(recipe: Recipe, data: Path) -> int:
    from shrinkserve.training.profile import profile_training

    found = profile_training(recipe, data)
    if os.environ.get("RANK", "0") == "0":
        total = sum(found.seconds.values())
        typer.echo(f"{found.processes} processes, {found.threads} threads each, {found.device}; medians")
        for part, seconds in found.seconds.items():
            typer.echo(f"{part:<16} {seconds * 1e3:9.2f} ms {seconds / total:6.1%}")
        typer.echo(f"{'sum of parts':<16} {total * 1e3:9.2f} ms")
        typer.echo(f"{'as trained':<16} {found.update * 1e3:9.2f} ms (exchange during the backward pass; without data)")
        typer.echo(f"{'speed':<16} {found.images_per_second:9,.1f} images/s")
    return 0


def _train(recipe: Recipe, data: Path, out: Path, *, resume: bool, overwrite: bool, allow_changes: bool) -> int:
    """Train in this process, which may be one of many; returns the exit code."""
    from shrinkserve.errors import ShrinkServeError
    from shrinkserve.training.launch import leave_fault
    from shrinkserve.training.loop import Stopped, restarted, train

    if restarted():  # all processes begin again: what was overwritten once is now to go on
        resume, overwrite = True, False
    try:
        card = train(recipe, data, out, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
    except Stopped as exc:
        return 128 + exc.signal
    except ShrinkServeError as exc:
        if leave_fault(exc):
            return exc.exit_code
        raise
    if os.environ.get("RANK", "0") == "0":
        top1, seconds = card.metrics["top1"], card.metrics["seconds"]
        typer.echo(f"wrote {out}: top-1 {top1:.2%} of the EMA weights on the validation split, {seconds:.0f} s")
    return 0


def plot(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    target: Annotated[
        Path | None, typer.Option("--out", help="The picture: .png, .svg or .pdf; RUN/curves.png if not given.")
    ] = None,
) -> None:
    """Draw the curves of a run, also of one that is still going on."""
    from shrinkserve.training.plot import plot as draw

    typer.echo(f"wrote {draw(folder, target or folder / 'curves.png')}")


def evaluate(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's folder or a step-*.safetensors.")],
    data: Annotated[Path, typer.Option("--data", help="Root of the dataset; its validation split is used.")],
    weights: Annotated[str, typer.Option("--weights", help="ema, what is shipped, or raw.")] = "ema",
    as_json: Annotated[
        bool, typer.Option("--json", help="All figures and the whole confusion matrix as JSON.")
    ] = False,
) -> None:
    """Measure trained weights on a validation split. Top-1, top-5, loss, and what is taken for what."""
    import json

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from shrinkserve.training.evaluation import confusions, evaluate_source

    found, classes = evaluate_source(source, data, weights)
    if as_json:
        typer.echo(json.dumps({**found.figures, "classes": classes, "confusion": found.confusion.tolist()}))
        return
    typer.echo(f"{source} ({weights}): {found.images} images")
    typer.echo(f"top-1 {found.top1:.2%}  top-5 {found.top5:.2%}  loss {found.loss:.4f}")
    if worst := confusions(found, classes, 10):
        typer.echo("most frequent errors (label -> answer):")
        for label, answer, count in worst:
            say(f"  {label} -> {answer}: {count}")
