"""`shrinkserve describe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shrinkserve.arch.counts import Block, Counts


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(describe)


def describe(
    network: Annotated[
        str,
        typer.Argument(
            help="Name in the zoo (shrinkcnn-a, shrinkcnn-b), .prototxt file, timm:NAME or python:MODULE:FUNCTION."
        ),
    ],
    input_size: Annotated[int | None, typer.Option(help="Height and width of the image.")] = None,
    width: Annotated[float, typer.Option(help="Multiplier of the channels of a network in the zoo.")] = 1.0,
    classes: Annotated[int | None, typer.Option(help="Number of logits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a cell into this file (.svg, .png, .pdf).")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Draw the whole network.")] = False,
    cell: Annotated[str | None, typer.Option(help="The cell to draw, e.g. stage2.cell1.")] = None,
) -> None:
    """Print the shapes, parameters and operations of a network."""
    from shrinkserve.arch.describe import describe as run
    from shrinkserve.terminal import print_fields, print_line

    counts = run(network, input_size=input_size, width=width, classes=classes, plot=plot, whole=whole, cell=cell)
    if as_json:
        import json

        print_line(json.dumps({"network": network, **counts.to_dict()}, indent=1))
        return
    _print_blocks(Path(network).stem, counts)
    print_fields(_totals(counts))
    if plot is not None:
        print_line(f"wrote {plot}")


def _print_blocks(network: str, counts: Counts) -> None:
    from shrinkserve.terminal import print_table

    macs = sum(counts.macs.values())
    stages: dict[str, list[Block]] = {}
    for block in counts.blocks:
        stages.setdefault(block.name.partition(".")[0], []).append(block)
    rows: list[tuple[str, ...]] = []
    bold = set()
    for stage, blocks in stages.items():
        bold.add(len(rows))
        rows.append(_row(stage, blocks, macs))
        rows += [_row(f"  {block.name}", [block], macs) for block in blocks if block.name != stage]
    bold.add(len(rows))
    rows.append(("total", "", f"{sum(counts.parameters.values()):,}", f"{macs:,}", "100.0 %"))
    title = f"{network} at {counts.input_size}x{counts.input_size}"
    print_table(("block", "output", "parameters", "MACs", "of MACs"), rows, title=title, bold=bold)


def _row(name: str, blocks: list[Block], total: int) -> tuple[str, ...]:
    channels, *pixels = blocks[-1].shape
    macs = sum(block.macs for block in blocks)
    shape = "x".join(map(str, (*pixels, channels)))
    return name, shape, f"{sum(block.parameters for block in blocks):,}", f"{macs:,}", f"{100 * macs / total:.1f} %"


def _totals(counts: Counts) -> dict[str, str]:
    def listed(kinds: dict[str, int]) -> str:
        return ", ".join(f"{kind.replace('_', ' ')} {value:,}" for kind, value in kinds.items())

    peak, kept = (values * 4 / 1e6 for values in (counts.peak_activations, counts.activations))
    return {
        "parameters": listed(counts.parameters),
        "running statistics": f"{counts.statistics:,}",
        "MACs": listed(counts.macs),
        "activations per image": f"float32: {peak:.1f} MB at the peak of inference, {kept:.1f} MB kept by training",
    }
