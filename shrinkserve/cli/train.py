"""`shrinkserve train` and `shrinkserve eval`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shrinkserve.cli.groups import RunByDefault
from shrinkserve.terminal import print_fields, print_line, print_table

if TYPE_CHECKING:
    from shrinkserve.config import Recipe
    from shrinkserve.runtimes.predictor import Predictor
    from shrinkserve.training.plan import TrainingPlan
    from shrinkserve.training.profile import StepProfile

Logger = Literal["wandb", "mlflow"]

SHOWN_CLASSES = 50
RUN_HELP = "Folder of the run, as `train` wrote it."
RESTARTS_HELP = "With --nproc: how often all processes start again after one was lost."
INIT_HELP = "Begin with the weights of a run, a step-*.safetensors or another safetensors file."
TEACHER_HELP = "Also learn from a run, version, ONNX file or a served model's URL (URL#NAME), see section distill."
STALL_HELP = "End the run if it makes no progress for so many seconds; 0: never."


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    about = "Train a network; `train plot RUN` draws its curves. `train run --help` lists the options."
    group = typer.Typer(name="train", cls=RunByDefault, help=about)
    group.command("run")(run)
    group.command("plot")(plot)
    app.add_typer(group)
    app.command("eval")(evaluate)


def run(  # noqa: PLR0913, PLR0917 - a command's options
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe (`recipe list`).")],
    data: Annotated[Path, typer.Option("--data", help="Root of the dataset: TFRecord shards or an image folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; runs/NAME if not given.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe (`recipe show --defaults`)."),
    ] = None,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, one per GPU.")] = 1,
    max_restarts: Annotated[int, typer.Option("--max-restarts", min=0, help=RESTARTS_HELP)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    allow_recipe_change: Annotated[
        bool, typer.Option("--allow-recipe-change", help="With --resume: the recipe may differ from the run's.")
    ] = False,
    init: Annotated[Path | None, typer.Option("--init", help=INIT_HELP)] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help=TEACHER_HELP)] = None,
    stall_timeout: Annotated[float, typer.Option("--stall-timeout", min=0, help=STALL_HELP)] = 1800.0,
    logger: Annotated[
        Logger | None, typer.Option("--logger", help="Also log the metrics there (extra of the same name).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print updates, memory and hours; train nothing.")] = False,
    images_per_second: Annotated[
        float | None, typer.Option("--images-per-second", min=0.001, help="With --plan: speed of one process.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print the time of each part of an update.")] = False,
) -> int:
    """Train a network from a recipe. `shrinkserve train plot RUN` draws the curves of a run."""
    from shrinkserve.config import load_recipe

    loaded = load_recipe(recipe, settings or [])
    # Read when torch is loaded; see `shrinkserve.train`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if plan:
        from shrinkserve.training.plan import plan_training

        _print_plan(plan_training(loaded, data, nproc=nproc, images_per_second=images_per_second), loaded)
        return 0
    if profile:
        from shrinkserve.training.train import profile_training

        _print_profile(profile_training(loaded, data, nproc=nproc, teacher=_open_teacher(teacher)))
        return 0
    from shrinkserve.training.loop import Stopped
    from shrinkserve.training.train import train

    try:
        found = train(
            loaded,
            data,
            out,
            nproc=nproc,
            max_restarts=max_restarts,
            resume=resume,
            overwrite=overwrite,
            allow_recipe_change=allow_recipe_change,
            init=init,
            teacher=_open_teacher(teacher),
            stall_timeout=stall_timeout,
            logger=logger,
        )
    except Stopped as exc:
        return 128 + exc.signal
    if found.trained and os.environ.get("RANK", "0") == "0":
        figures = f"top-1 {found.top1:.2%} of the EMA weights on the validation split, {found.seconds:.0f} s"
        print_line(f"wrote {found.folder}: {figures}")
    return 0


def _open_teacher(teacher: str | None) -> str | Predictor | None:
    """Return the teacher's path, or the served model at its URL."""
    if teacher is None or "://" not in teacher:
        return teacher
    from shrinkserve.serving.client.served_model import ServedModel

    url, _, model = teacher.partition("#")
    return ServedModel(url, model or None)


def _print_plan(found: TrainingPlan, recipe: Recipe) -> None:
    train, gib = recipe.train, 2**30
    batches = f"{train.batch_size} x {train.accumulate} accumulated x {found.processes} processes"
    parts = f"{found.activation_bytes / gib:.2f} activations, {found.state_bytes / gib:.2f} weights and optimiser"
    hours = "give --images-per-second (see --profile)" if found.hours is None else f"{found.hours:,.2f}"
    images = f"{found.training_images:,} train, {found.validation_images:,} validation"
    fields = {
        "images": f"{images}; {found.classes} classes",
        "total batch": f"{found.total_batch} = {batches}",
        "updates": f"{found.steps:,} = {found.steps_an_epoch:,} per epoch x {recipe.schedule.epochs} epochs",
        "peak rate": f"{found.peak_rate:g}",
        "parameters": f"{found.parameters:,}",
        "memory": f"about {(found.state_bytes + found.activation_bytes) / gib:.2f} GiB per process: {parts}",
        "hours": hours,
        "loader": found.loader,
        "loader cores": _loader_cores(found.loader_cores),
    }
    print_fields(fields)
    for warning in found.warnings:
        print_line(warning)


def _loader_cores(cores: int | None) -> str:
    """Return how many cores the loader needs."""
    from shrinkserve.training.plan import LOADER_SPEED

    if cores is None:
        return f"about {LOADER_SPEED} images/s per core (500x375 JPEG): give --images-per-second for the cores"
    return f"about {cores} cores per process (500x375 JPEG, {LOADER_SPEED} images/s per core)"


def _print_profile(found: StepProfile) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    total = sum(found.seconds.values())
    rows = [(part, f"{seconds * 1e3:.2f}", f"{seconds / total:.1%}") for part, seconds in found.seconds.items()]
    rows += [("sum of parts", f"{total * 1e3:.2f}", ""), ("complete update", f"{found.update * 1e3:.2f}", "")]
    about = f"{found.processes} processes, {found.threads} threads each, {found.device}; medians"
    print_table(("part", "ms", "share"), rows, title=about)
    print_line("A complete update exchanges gradients during the backward pass, and does not include the data.")
    print_line(f"speed: {found.images_per_second:,.1f} images/s")


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture: .png, .svg or .pdf; RUN/curves.png if not given.")
    ] = None,
) -> None:
    """Draw the curves of a run, complete or not."""
    from shrinkserve.training.plot import plot_run

    print_line(f"wrote {plot_run(run, out)}")


def evaluate(
    source: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run's folder or a step-*.safetensors.")],
    data: Annotated[Path, typer.Option("--data", help="Root of the dataset; its validation split is used.")],
    weights: Annotated[str, typer.Option("--weights", help="ema (exported) or raw (the optimiser's last).")] = "ema",
    confusion: Annotated[
        Path | None, typer.Option("--confusion", help="Write the confusion matrix as a picture: .png, .svg or .pdf.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures and the complete confusion matrix as JSON.")
    ] = False,
) -> None:
    """Evaluate trained weights on a validation split. Prints top-1, top-5, loss, figures per class and errors."""
    import json

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from shrinkserve.training.evaluation import evaluate as evaluate_weights

    if confusion is not None:
        from shrinkserve.training.plot import check_picture

        check_picture(confusion)
    found = evaluate_weights(source, data, weights)
    if confusion is not None:
        from shrinkserve.training.plot import plot_confusion

        plot_confusion(found, confusion)
    if as_json:
        print_line(json.dumps(found.to_dict(), allow_nan=False))
        return
    print_line(f"{source} ({weights}): {found.images} images")
    print_line(f"top-1 {found.top1:.2%}  top-5 {found.top5:.2%}  loss {found.loss:.4f}")
    columns = [
        (one.name, f"{one.precision:.1%}", f"{one.recall:.1%}", f"{one.f1:.1%}", one.support)
        for one in found.per_class()
        if one.support
    ]
    print_table(("class", "precision", "recall", "F1", "images"), columns[:SHOWN_CLASSES])
    if len(columns) > SHOWN_CLASSES:
        print_line(f"{len(columns) - SHOWN_CLASSES} more classes; --json has all")
    if worst := found.confusions(10):
        print_line("most frequent errors (label -> prediction):")
        for one in worst:
            print_line(f"  {one.label} -> {one.prediction}: {one.images}")
    if confusion is not None:
        print_line(f"wrote {confusion}")
