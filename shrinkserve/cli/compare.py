"""`shrinkserve compare` and `inspect`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkserve.cli.export import report
from shrinkserve.cli.output import say
from shrinkserve.errors import GateError

if TYPE_CHECKING:
    from shrinkserve.runtimes import Predictor


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(compare)
    app.command()(inspect)


def compare(
    reference: Annotated[
        str, typer.Argument(help="What is right: run, run@raw, version, version@engine, .onnx, .plan, or server URL.")
    ],
    candidate: Annotated[str, typer.Argument(help="What is judged: the same kinds.")],
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images are asked.")] = None,
    model: Annotated[str | None, typer.Option(help="Model's name on a server; its only one by default.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Of a logit, in units of the largest or of 1.")] = 1e-4,
    limit: Annotated[int, typer.Option(min=1, help="Images, spread evenly over the dataset.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that is asked.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Say how far the answers of two artifacts are apart. Exit code 1 beyond the tolerance."""
    from shrinkserve.exporting.parity import Tolerance
    from shrinkserve.exporting.parity import compare_outputs as ask
    from shrinkserve.exporting.samples import load_samples
    from shrinkserve.preprocess import Preprocess

    right, judged = (_open(source, model) for source in (reference, candidate))
    preprocess = getattr(right, "preprocess", None) or getattr(judged, "preprocess", None)
    samples = load_samples(data, preprocess or Preprocess(size=right.size), limit=limit)
    outcome = ask(right, judged, samples, Tolerance(tolerance), max_batch)
    outcome = replace(outcome, reference=reference, candidate=candidate)  # a name may be the same on both sides
    if as_json:
        say(json.dumps(outcome.to_dict(), indent=1))
    else:
        report({"step": f"{outcome.candidate} against {outcome.reference}", **outcome.to_dict()})
        for flip in outcome.flipped:
            named, found = (right.classes[index] for index in (flip.right, flip.found))
            say(f"image {flip.image}: {named} became {found}, {flip.margin:.3g} apart in the reference")
    if outcome.faults:
        raise GateError("the answers differ", expected=f"within {outcome.limit:.3g}", found="; ".join(outcome.faults))


def inspect(
    artifact: Annotated[Path, typer.Argument(help="Run folder, version folder of a repository, .onnx or .plan file.")],
    other: Annotated[Path | None, typer.Argument(help="Show only what differs from this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show an artifact's card and graph, or how two differ."""
    from shrinkserve.exporting.inspection import differences
    from shrinkserve.exporting.inspection import inspect as look

    found: dict[str, Any] = look(artifact)
    if other is not None:
        found = dict(differences(found, look(other)))
    if as_json:
        say(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        shown = "  ->  ".join(map(_shown, value)) if other is not None else _shown(value)
        say(f"{key}: {shown}")


def _shown(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_shown(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _open(source: str, model: str | None) -> Predictor:
    if "://" in source:
        from shrinkserve.serving.client.served_model import ServedModel

        return ServedModel(source, model)
    from shrinkserve.runtimes import open_artifact

    return open_artifact(Path(source))
