"""The report as one HTML page that can be sent around: nothing is fetched, nothing is run."""

from __future__ import annotations

from typing import Any

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.report import charts, numbers, svg, tree
from shrinkserve.benchmark.report.flips import flip_groups
from shrinkserve.benchmark.report.terminal import outcome, tiles, verdict
from shrinkserve.benchmark.timing import describe_load
from shrinkserve.data import Dataset

WIDE, NARROW = 1016.0, 358.0
"""Widths of the two drawings of each chart, in pixels: for a desk and for a phone."""
PHASES = ("queue", "compute_input", "compute_infer", "compute_output", "client and network")
PERCENTILES = ["p50", "p90", "p95", "p99", "p99.9"]


def to_html(record: dict[str, Any], dataset: Dataset) -> str:
    """A record of `shrinkserve bench` as a self-contained page.

    Args:
        record: see `shrinkserve.benchmark.report.record`.
        dataset: where the thumbnails come from.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("shrinkserve.benchmark.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": numbers.percent, "ms": numbers.milliseconds, "rate": numbers.rate}
    reference = record["stages"][record["reference"]]["name"]
    comparisons = record["accuracy"]["comparisons"] if record["accuracy"] else []
    return environment.get_template("report.html.jinja").render(
        record=record,
        outcome=outcome(record),
        sentence=verdict(record),
        tiles=tiles(record),
        reference=reference,
        against={c["after"]: c for c in comparisons if c["before"] == reference},
        chain=_chain(record),
        curves=_curves(record),
        ridges=_ridges(record),
        batches=_batches(record),
        phases=_phases(record),
        phase_names=PHASES,
        shapes=svg.SHAPES,
        percentiles=PERCENTILES,
        peers=_peers(record),
        flips=flip_groups(record, dataset),
        describe=describe_load,
        figure=numbers.figure,
    )


def _chain(record: dict[str, Any]) -> list[str]:
    """Both drawings of the chain; none when nothing was compared."""
    if not record["accuracy"]:
        return []
    stages = record["stages"]
    found = {(c["before"], c["after"]): c["flips"] for c in record["accuracy"]["comparisons"]}
    nodes = []
    for number, (stage, score) in enumerate(zip(stages, record["accuracy"]["stages"], strict=True)):
        parent = stage["parent"]
        flips = None if parent is None else found[stages[parent]["name"], stage["name"]]
        bad = bool(flips) and stage["exact"] and stages[parent]["exact"]
        note = f"top-1 {numbers.percent(score['top1']['value'])}"
        nodes.append(tree.Node(stage["name"], note, parent, flips, bad, number == record["reference"]))
    return [tree.wide(nodes), tree.narrow(nodes)]


def _curves(record: dict[str, Any]) -> dict[str, Any]:
    """Throughput and p99 of every load test with one image a request that kept up, and of what the search tried."""
    series: dict[str, list[charts.LoadPoint]] = {}
    tried = [trial for search in record["slo"] for trial in search["trials"]]
    for load in (*record["loads"], *tried):
        p99 = load["latency"]["percentiles"]["p99"]
        if load["batch"] != 1 or load["unsent"] or not load["latency"]["count"]:
            continue
        closed = load["mode"] == "closed"
        name = load["target"] if closed else f"{load['target']}, open loop"
        asked = load["concurrency"] if closed else load["offered_requests_per_second"]
        point = charts.LoadPoint(
            load=asked,
            throughput=load["images_per_second"],
            p99=p99["value"],
            low=p99["low"],
            high=p99["high"],
            valid=load["valid"] or load in tried,  # what a search found too much is no worse measured
            label=f"c{asked}" if closed else f"{asked:.0f}/s",
            title=f"{describe_load(load)}: {numbers.milliseconds(p99['value'])} ms",
        )
        series.setdefault(name, []).append(point)
    if not any(len(points) > 1 for points in series.values()):
        return {}
    ordered = {name: sorted(points, key=lambda point: point.load) for name, points in series.items()}
    drawn = [charts.load_curves(ordered, WIDE, 400), charts.load_curves(ordered, NARROW, 280)]
    return {"names": list(ordered), "pictures": drawn}


def _ridges(record: dict[str, Any]) -> list[str]:
    loads = []
    for load in record["loads"]:
        histogram = LatencyHistogram(load["latency"]["hdr"])
        buckets = [(1e3 * low, 1e3 * high, count) for low, high, count in histogram.buckets()]
        if buckets:
            marks = {f"p{percent:g}": 1e3 * histogram.percentile(percent) for percent in (50, 99, 99.9)}
            loads.append(charts.LatencyRidge(describe_load(load), buckets, marks))
    return [charts.ridges(loads, WIDE), charts.ridges(loads, NARROW)] if loads else []


def _batches(record: dict[str, Any]) -> dict[str, Any]:
    """Load tests of one worker by target and batch size; `share` of the best throughput is the shade."""
    alone = [load for load in record["loads"] if load["mode"] == "closed" and load["concurrency"] == 1]
    sizes = sorted({load["batch"] for load in alone})
    if len(sizes) < 2:
        return {}
    best = max(load["images_per_second"] for load in alone) or 1.0
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for load in alone:
        share = load["images_per_second"] / best
        rows.setdefault(load["target"], {})[load["batch"]] = {**load, "share": share}
    return {"sizes": sizes, "rows": rows}


def _phases(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the mean request's time goes: the server's own account, and the rest of what the client saw.

    An ensemble's account adds up the computation of its models and leaves out the queues before them: what is in the
    server's time and is no computation is waiting.
    """
    found: list[dict[str, Any]] = []
    for load in record["loads"]:
        if load["server"]:
            inside, phases = load["server"]["total_mean_ms"], dict(load["server"]["mean_ms"])
            phases["queue"] += max(0.0, inside - sum(phases.values()))
            phases["client and network"] = max(0.0, load["latency"]["mean"] - inside)
            found.append({"name": describe_load(load), "phases": phases, "total": sum(phases.values())})
            found[-1]["together"] = load["server"]["images_per_execution"]
    longest = max((entry["total"] for entry in found), default=0.0) or 1.0
    for entry in found:
        entry["widths"] = [100 * entry["phases"][name] / longest for name in PHASES]
    return found


def _peers(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What perf_analyzer measured, each run beside ours of the same target and concurrency."""
    closed = [load for load in record["loads"] if load["mode"] == "closed" and load["batch"] == 1]
    ours = {(load["target"], load["concurrency"]): load for load in closed}
    return [{"theirs": row, "ours": ours.get((row["target"], row["concurrency"]))} for row in record["perf_analyzer"]]
