"""`shrinkserve export`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images judge the result.")] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="Model name; the run's by default.")] = None,
    version: Annotated[int | None, typer.Option(help="Model version; the next free one by default.")] = None,
    weights: Annotated[str, typer.Option(help="'ema', what is evaluated and shipped, or 'raw'.")] = "ema",
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that is checked and served.")] = 32,
) -> None:
    """Export a run to a Triton model repository, checked against the run's own answers."""
    from shrinkserve.export.exporter import MODEL, export_onnx
    from shrinkserve.serving.repository import Repository

    if weights == "raw":
        typer.echo("WARNING: exporting the RAW weights, not the EMA weights that were evaluated", err=True)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as staging:
        card = export_onnx(run, Path(staging), data, weights=weights, max_batch=max_batch)  # type: ignore[arg-type]
        place = Repository(repository).add(name or card.name, Path(staging) / MODEL, card, version=version)
    for check in card.checks:
        _report(check)
    if card.metrics:
        typer.echo(f"top-1 {card.metrics['top1']:.2%} on {card.metrics['source']}")
    typer.echo(f"wrote {place}")


def _report(check: dict[str, Any]) -> None:
    if check["check"] != "parity":
        return
    if check["passed"] is None:
        typer.echo(f"{check['step']}: not checked, {check['skipped']}")
        return
    sizes = ", ".join(map(str, check["batches"]))
    typer.echo(
        f"{check['step']}: worst logit difference {check['worst']:.2e} (tolerance {check['tolerance']['absolute']:g} "
        f"of {max(1.0, check['scale']):.3g}), {check['flips']} of {check['images']} top-1 changed; "
        f"batch {sizes}; {check['source']}"
    )
