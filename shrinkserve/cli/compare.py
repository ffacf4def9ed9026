"""`shrinkserve compare` and `inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.cli.export import print_parity
from shrinkserve.terminal import print_line


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(compare)
    app.command()(inspect)


def compare(
    reference: Annotated[
        str,
        typer.Argument(help="Taken as correct: run, run@raw, version, version@engine, .onnx, .plan, or server URL."),
    ],
    candidate: Annotated[str, typer.Argument(help="Compared with it; the same kinds.")],
    data: Annotated[Path | None, typer.Option(help="Dataset with the validation images.")] = None,
    model: Annotated[str | None, typer.Option(help="Model's name on a server; its only one by default.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference of a logit, relative to the largest or to 1.")
    ] = 1e-4,
    limit: Annotated[int, typer.Option(min=1, help="Images, spread evenly over the dataset.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare the outputs of two artifacts.

    Exit code 1 if they differ by more than the tolerance.
    """
    from shrinkserve.api import artifacts

    outcome = artifacts.compare(
        reference, candidate, data=data, model=model, tolerance=tolerance, limit=limit, max_batch=max_batch
    )
    if as_json:
        print_line(json.dumps(outcome.to_dict(), indent=1))
    else:
        print_parity({**outcome.to_dict(), "step": f"{candidate} against {reference}"})
        for flip in outcome.flipped:
            right, found = (outcome.classes[index] for index in (flip.right, flip.found))
            print_line(f"image {flip.image}: {right} became {found}, {flip.margin:.3g} apart in the reference")
    artifacts.check_parity(outcome)


def inspect(
    artifact: Annotated[Path, typer.Argument(help="Run folder, version folder of a repository, .onnx or .plan file.")],
    other: Annotated[Path | None, typer.Argument(help="Show only what differs from this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show an artifact's card and graph, or how two differ."""
    from shrinkserve.api import artifacts

    found = artifacts.inspect(artifact, other)
    if as_json:
        print_line(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        print_line(f"{key}: {'  ->  '.join(map(_shown, value)) if isinstance(value, tuple) else _shown(value)}")


def _shown(value: object) -> str:
    """Return a value as text."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
