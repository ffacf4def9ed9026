"""The record of a measurement as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from shrinkserve.benchmark.gates import describe_load


def render(record: dict[str, Any], console: Console | None = None) -> None:
    """Print what was measured: accuracy by stage, then latency and throughput by load."""
    console = console or Console(width=None if Console().is_terminal else 140)
    if record["accuracy"]:
        console.print(_accuracy(record))
    if record["loads"]:
        console.print(_loads(record))
    console.print(verdict(record), markup=False, highlight=False)


def _accuracy(record: dict[str, Any]) -> Table:
    accuracy = record["accuracy"]
    reference = record["stages"][record["reference"]]["name"]
    table = Table(title=f"{record['model']}: {accuracy['images']} images of {record['dataset']['root']}")
    for heading in (
        "stage",
        "top-1",
        "95 % interval",
        "top-5",
        f"other answers than {reference}",
        "largest difference",
    ):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    against = {c["after"]: c for c in accuracy["comparisons"] if c["before"] == reference}
    for score in accuracy["stages"]:
        comparison = against.get(score["stage"])
        top1 = score["top1"]
        table.add_row(
            score["stage"],
            f"{top1['value']:.2%}",
            f"{top1['low']:.2%} .. {top1['high']:.2%}",
            f"{score['top5']['value']:.2%}",
            str(comparison["flips"]) if comparison else "",
            f"{comparison['worst']:.1e}" if comparison else "",
        )
    return table


def _loads(record: dict[str, Any]) -> Table:
    table = Table(title="Latency in milliseconds, throughput in images/s")
    for heading in ("load", "p50", "p90", "p99", "images/s", "figures"):
        table.add_column(heading, justify="left" if heading in {"load", "figures"} else "right")
    for load in record["loads"]:
        percentiles = load["latency"]["percentiles"]
        table.add_row(
            describe_load(load),
            *(f"{percentiles[name]['value']:.2f}" for name in ("p50", "p90", "p99")),
            f"{load['images_per_second']:.1f}",
            "valid" if load["valid"] else f"invalid: {'; '.join(load['reasons'])}",
        )
    return table


def outcome(record: dict[str, Any]) -> str:
    """In one word: PASSED, MISSED or PARTIAL."""
    if record["partial"] is not None:
        return "PARTIAL"
    return "MISSED" if record["misses"] else "PASSED"


def verdict(record: dict[str, Any]) -> str:
    """One sentence: does the last stage answer as the checkpoint does, how well and how fast."""
    accuracy = record["accuracy"]
    if record["partial"] is not None or not accuracy or not accuracy["images"]:
        return f"PARTIAL: {record['partial']}"
    reference = record["stages"][record["reference"]]["name"]
    servers = [stage["name"] for stage in record["stages"] if stage["kind"] == "server"] or [
        record["stages"][-1]["name"]
    ]
    flips = max(
        (c["flips"] for c in accuracy["comparisons"] if c["before"] == reference and c["after"] in servers), default=0
    )
    top1 = min(score["top1"]["value"] for score in accuracy["stages"] if score["stage"] in servers)
    same = "as the checkpoint does" if not flips else f"unlike the checkpoint on {flips}"
    sentence = f"On {accuracy['images']} images {' and '.join(servers)} answer {same}, top-1 {top1:.2%}"
    valid = [load for load in record["loads"] if load["valid"]]
    if valid:
        best = max(valid, key=lambda load: float(load["images_per_second"]))
        p99 = best["latency"]["percentiles"]["p99"]["value"]
        sentence += f", {best['images_per_second']:.0f} images/s with a p99 of {p99:.1f} ms ({describe_load(best)})"
    elif record["loads"]:
        sentence += "; no load test gave figures that may be quoted"
    return sentence + "."
