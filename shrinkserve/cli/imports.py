"""`shrinkserve import`: run folders from the checkpoints of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.terminal import print_line


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="Make a run folder from the weights of another program.")
    group.callback()(lambda: None)
    group.command("tensorflow")(tensorflow)
    app.add_typer(group, name="import")


def tensorflow(
    checkpoint: Annotated[Path, typer.Argument(help="Prefix of the checkpoint's files (model.ckpt), or their folder.")],
    proto: Annotated[Path, typer.Option("--proto", help="The .prototxt file of the network.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; new or empty.")],
    solver: Annotated[Path | None, typer.Option("--solver", help="The .solver file of its training.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names, one per line.")] = None,
) -> None:
    """Import a checkpoint of AutoShrink's TensorFlow code. Needs the extra `tensorflow`."""
    from shrinkserve.errors import DataError
    from shrinkserve.text import read_text
    from shrinkserve.training.tensorflow_import import import_tensorflow

    try:
        names = None if labels is None else read_text(labels).splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{labels}: cannot read the class names ({exc})", hint="check --labels") from exc
    found = import_tensorflow(checkpoint, proto, out, solver=solver, labels=names)
    averages = "EMA and raw weights" if found.averaged else "no averages: EMA and raw weights are the same"
    print_line(f"wrote {out}: {found.tensors} tensors, {averages}; ignored {len(found.ignored)} optimiser values")
