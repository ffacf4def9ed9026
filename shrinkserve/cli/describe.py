"""`shrinkserve describe`: what a network is made of and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shrinkserve.arch.counts import Block, Counts


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(describe)


def describe(
    network: Annotated[str, typer.Argument(help="A name of the zoo (shrinkcnn-a, shrinkcnn-b) or a .prototxt file.")],
    input_size: Annotated[int | None, typer.Option(help="Height and width of the image; default: its own.")] = None,
    width: Annotated[float, typer.Option(help="Multiplies the channels of the zoo's networks.")] = 1.0,
    classes: Annotated[int | None, typer.Option(help="Number of logits; default: its own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a cell into this file (.svg, .png, .pdf).")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Draw the whole network by its cells.")] = False,
    cell: Annotated[str | None, typer.Option(help="The cell to draw, as the table names it.")] = None,
) -> None:
    """Show what a network is made of. Stages and cells with their shapes, parameters and multiply-accumulates."""
    from shrinkserve.arch import load
    from shrinkserve.arch.counts import count
    from shrinkserve.errors import ConfigError

    if (whole or cell) and plot is None:
        raise ConfigError("--whole and --cell say what to draw", hint="add --plot FILE")
    if whole and cell:
        raise ConfigError("--whole and --cell", expected="one of them")
    spec = load(network, classes=classes, input_size=input_size, width=width)
    counts = count(spec)
    if plot is not None:
        from shrinkserve.arch.plot import save

        save(spec, plot, Path(network).stem, whole=whole, cell=cell)
    if as_json:
        import json

        typer.echo(json.dumps(_as_data(network, counts), indent=1))
        return
    _print_table(Path(network).stem, counts)
    if plot is not None:
        typer.echo(f"wrote {plot}")


def _as_data(network: str, counts: Counts) -> dict[str, Any]:
    from collections import Counter
    from dataclasses import asdict

    return {
        "network": network,
        "input_size": counts.input_size,
        "classes": counts.operations[-1].shape[0],
        "parameters": {**counts.parameters, "total": sum(counts.parameters.values())},
        "running_statistics": counts.statistics,
        "macs": {**counts.macs, "total": sum(counts.macs.values())},
        "activations": {"all": counts.activations, "peak": counts.peak_activations},
        "operations": dict(Counter(operation.kind for operation in counts.operations)),
        "blocks": [asdict(block) for block in counts.blocks],
    }


def _print_table(network: str, counts: Counts) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    style = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=style, title=f"{network} at {counts.input_size}x{counts.input_size}", title_justify="left")
    table.add_column("block", no_wrap=True)
    for heading in ("output", "parameters", "MACs", "of MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    macs, parameters = sum(counts.macs.values()), sum(counts.parameters.values())
    stages: dict[str, list[Block]] = {}
    for block in counts.blocks:
        stages.setdefault(block.name.partition(".")[0], []).append(block)
    for stage, blocks in stages.items():
        table.add_row(*_row(stage, blocks, macs), style="bold")
        for block in blocks:
            if block.name != stage:
                table.add_row(*_row(f"  {block.name}", [block], macs))
    table.add_section()
    table.add_row("total", "", f"{parameters:,}", f"{macs:,}", "100.0 %", style="bold")
    console.print(table)
    for label, value in _totals(counts):
        console.print(f"{label:<22}{value}", highlight=False, soft_wrap=True)


def _row(name: str, blocks: list[Block], total: int) -> tuple[str, ...]:
    channels, *pixels = blocks[-1].shape
    macs = sum(block.macs for block in blocks)
    shape = "x".join(map(str, (*pixels, channels)))
    return (
        name,
        shape,
        f"{sum(block.parameters for block in blocks):,}",
        f"{macs:,}",
        f"{macs / total:.1%}".replace("%", " %"),
    )


def _totals(counts: Counts) -> list[tuple[str, str]]:
    def listed(kinds: dict[str, int]) -> str:
        return ", ".join(f"{kind.replace('_', ' ')} {value:,}" for kind, value in kinds.items())

    float32 = 4 / 1e6
    return [
        ("parameters", listed(counts.parameters)),
        ("running statistics", f"{counts.statistics:,}"),
        ("MACs", listed(counts.macs)),
        (
            "activations (float32)",
            f"{counts.peak_activations * float32:.1f} MB at the peak of inference, "
            f"{counts.activations * float32:.1f} MB kept by training, an image",
        ),
    ]
