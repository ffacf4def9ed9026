"""The report as Markdown, for a pull request or a release note."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from shrinkserve.benchmark.report.numbers import figure, milliseconds, percent, rate
from shrinkserve.benchmark.report.terminal import outcome, verdict
from shrinkserve.benchmark.timing import describe_load


def to_markdown(record: dict[str, Any]) -> str:
    """A record of `shrinkserve bench` as a Markdown page."""
    return "\n".join(_lines(record)) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], words: Collection[int] = (0,)) -> list[str]:
    """A Markdown table; the columns at the positions `words` are text, the others are figures."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    rule = ["---" if column in words else "---:" for column in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in [list(head), rule, *cells]]


def _lines(record: dict[str, Any]) -> Iterator[str]:
    environment = record["environment"]
    yield f"# {record['model']}: {outcome(record)}"
    yield from ("", verdict(record), "")
    yield from (f"* MISSED {miss}" for miss in record["misses"])
    if record["accuracy"]:
        yield from ("", "## Accuracy", "")
        yield from _accuracy(record)
        yield from (f"\nLeft out: {line}" for line in record["left_out"])
    if record["loads"]:
        yield from ("", "## Latency and throughput", "")
        yield from _loads(record)
    for search in record["slo"]:
        held = f"holds up to {rate(search['requests_per_second'])} requests/s"
        yield f"\n{search['target']}: {search['slo']} {held if search['requests_per_second'] else 'cannot be met'}."
    if record["perf_analyzer"]:
        yield from ("", "## perf_analyzer on the same server", "")
        rows = [
            (
                row["target"],
                row["concurrency"],
                *(row.get(key, "") for key in ("p50_ms", "p99_ms", "images_per_second")),
            )
            for row in record["perf_analyzer"]
        ]
        yield from table(("target", "concurrency", "p50 ms", "p99 ms", "images/s"), rows)
    if record["baseline"]:
        yield from ("", f"## Against {record['baseline']['file']}", "")
        rows = [
            (f["figure"], *(figure(f[time]["value"], f["unit"]) for time in ("before", "now")), f["unit"], f["verdict"])
            for f in record["baseline"]["figures"]
        ]
        yield from table(("figure", "before", "now", "unit", "verdict"), rows)
    yield from ("", "## Where", "")
    yield f"{environment['cpu']}, {environment['cores_usable']} cores, {environment['memory_gib']:.0f} GiB"
    gpus = ", ".join(environment["gpus"]) or "none"
    yield f"GPU: {gpus}; {environment['date']}; weights `{record['weights_sha256'][:12]}`"
    yield from ("", f"    {environment['command']}")


def _accuracy(record: dict[str, Any]) -> list[str]:
    reference = record["stages"][record["reference"]]["name"]
    against = {c["after"]: c for c in record["accuracy"]["comparisons"] if c["before"] == reference}
    rows = []
    for score in record["accuracy"]["stages"]:
        comparison, top1 = against.get(score["stage"]), score["top1"]
        rows.append(
            (
                score["stage"],
                percent(top1["value"]),
                f"{100 * top1['low']:.2f} to {100 * top1['high']:.2f}",
                percent(score["top5"]["value"]),
                comparison["flips"] if comparison else "",
                f"{comparison['mcnemar_p']:.2g}" if comparison else "",
            )
        )
    return table(("stage", "top-1", "95 % interval", "top-5", f"flips against {reference}", "McNemar p"), rows)


def _loads(record: dict[str, Any]) -> list[str]:
    rows = []
    for load in record["loads"]:
        p = load["latency"]["percentiles"]
        figures = [milliseconds(p[name]["value"]) for name in ("p50", "p90", "p95", "p99", "p99.9")]
        interval = f"{milliseconds(p['p99']['low'])} to {milliseconds(p['p99']['high'])}"
        verdict_of_it = "valid" if load["valid"] else "invalid: " + "; ".join(load["reasons"])
        rows.append((describe_load(load), *figures, interval, rate(load["images_per_second"]), verdict_of_it))
    head = ("load (ms)", "p50", "p90", "p95", "p99", "p99.9", "p99 95 % interval", "images/s", "figures")
    return table(head, rows)
