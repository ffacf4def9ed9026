"""The record of a measurement as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkserve.benchmark.report.numbers import milliseconds, percent, rate
from shrinkserve.benchmark.timing import describe_load


def render(record: dict[str, Any], console: Console | None = None) -> None:
    """Print what was measured: accuracy by stage, then latency and throughput by load."""
    console = console or Console(width=None if Console().is_terminal else 140)
    if record["accuracy"]:
        console.print(_accuracy(record))
    if record["loads"]:
        console.print(_loads(record))
    for line in record["left_out"]:
        console.print(f"left out: {line}", markup=False, highlight=False)
    console.print(verdict(record), markup=False, highlight=False)


def _accuracy(record: dict[str, Any]) -> Table:
    accuracy = record["accuracy"]
    reference = record["stages"][record["reference"]]["name"]
    title = f"{record['model']}: {accuracy['images']:,} images of {record['dataset']['root']}"
    table = Table(title=escape(title))  # what is in brackets would be a style
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
            percent(top1["value"]),
            f"{100 * top1['low']:.2f} to {100 * top1['high']:.2f}",
            percent(score["top5"]["value"]),
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
            *(milliseconds(percentiles[name]["value"]) for name in ("p50", "p90", "p99")),
            rate(load["images_per_second"]),
            "valid" if load["valid"] else escape(f"invalid: {'; '.join(load['reasons'])}"),
        )
    return table


def outcome(record: dict[str, Any]) -> str:
    """In one word: PASSED, MISSED or PARTIAL."""
    if record["partial"] is not None:
        return "PARTIAL"
    return "MISSED" if record["misses"] else "PASSED"


def verdict(record: dict[str, Any]) -> str:
    """One sentence: does what is served answer as the checkpoint does, how well and how fast."""
    accuracy = record["accuracy"]
    if record["partial"] is not None or not accuracy or not accuracy["images"]:
        return f"PARTIAL: {record['partial']}"
    flips, top1 = _served(record)
    same = [name for name, count in flips.items() if not count]
    parts = []
    if same:
        parts.append(f"{_listed(same)} answer{'s' if len(same) == 1 else ''} as the checkpoint does")
    for name, count in flips.items():
        if count:
            parts.append(f"{name} differs from {'it' if parts else 'the checkpoint'} on {count:,}")
    sentence = f"On {accuracy['images']:,} images {_listed(parts)}; top-1 {percent(top1)}"
    held = [search for search in record["slo"] if search["requests_per_second"]]
    if held:
        best = max(held, key=lambda search: float(search["requests_per_second"]))
        sentence += f"; {best['slo']} holds up to {rate(best['requests_per_second'])} requests/s ({best['target']})"
    elif fastest := _fastest(record):
        p99 = fastest["latency"]["percentiles"]["p99"]["value"]
        speed = rate(fastest["images_per_second"])
        sentence += f"; {speed} images/s with a p99 of {milliseconds(p99)} ms ({describe_load(fastest)})"
    elif record["loads"]:
        sentence += "; no load test gave figures that may be quoted"
    return sentence + "."


def tiles(record: dict[str, Any]) -> list[dict[str, str]]:
    """The figures that a reader looks for first: name, value, and what it is of."""
    accuracy, found = record["accuracy"], []
    if accuracy and accuracy["images"]:
        flips, top1 = _served(record)
        worst = max(flips, key=lambda name: flips[name])
        score = min(accuracy["stages"], key=lambda one: (one["stage"] not in flips, one["top1"]["value"]))["top1"]
        of = f"of {accuracy['images']:,}, {worst}"
        found.append(_tile("other answers than the checkpoint", f"{flips[worst]:,}", of))
        ends = f"95 %: {100 * score['low']:.2f} to {100 * score['high']:.2f}"
        found.append(_tile("top-1", percent(top1), ends))
    if valid := _quotable(record):
        alone = min(valid, key=lambda load: float(load["latency"]["percentiles"]["p99"]["value"]))
        p99 = alone["latency"]["percentiles"]["p99"]["value"]
        found.append(_tile("shortest p99", f"{milliseconds(p99)} ms", describe_load(alone)))
        fastest = max(valid, key=lambda load: float(load["images_per_second"]))
        found.append(_tile("most images/s", rate(fastest["images_per_second"]), describe_load(fastest)))
    for search in record["slo"]:
        held = f"{rate(search['requests_per_second'])}/s" if search["requests_per_second"] else "not met"
        found.append(_tile(f"{search['slo']} holds to", held, search["target"]))
    return found


def _tile(name: str, value: str, more: str) -> dict[str, str]:
    return {"name": name, "value": value, "more": more}


def _served(record: dict[str, Any]) -> tuple[dict[str, int], float]:
    """Flips against the checkpoint of each server (without one: of the last stage), and the lowest top-1 of these."""
    reference = record["stages"][record["reference"]]["name"]
    names = _servers(record) or [record["stages"][-1]["name"]]
    counts = {c["after"]: c["flips"] for c in record["accuracy"]["comparisons"] if c["before"] == reference}
    top1 = min(score["top1"]["value"] for score in record["accuracy"]["stages"] if score["stage"] in names)
    return {name: counts.get(name, 0) for name in names}, top1


def _fastest(record: dict[str, Any]) -> dict[str, Any] | None:
    """The quotable load test with the most images a second, within the bound on p99 if there is one."""
    bound = record["gates"]["max_p99"]
    fit = [
        load
        for load in _quotable(record)
        if bound is None or load["latency"]["percentiles"]["p99"]["value"] <= 1e3 * bound
    ]
    return max(fit, key=lambda load: float(load["images_per_second"]), default=None)


def _quotable(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Valid load tests: of servers where there is one, as no user is answered by a stage in this process."""
    servers = _servers(record)
    return [load for load in record["loads"] if load["valid"] and (not servers or load["target"] in servers)]


def _servers(record: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in record["stages"] if stage["kind"] == "server"]


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
