"""The report as one HTML page that can be sent around: nothing is fetched, nothing is run."""

from __future__ import annotations

import base64
import io
from typing import Any

from shrinkserve.benchmark.gates import describe_load
from shrinkserve.benchmark.histogram import Histogram
from shrinkserve.benchmark.report import charts
from shrinkserve.benchmark.summary import outcome, verdict
from shrinkserve.data import Dataset
from shrinkserve.errors import DataError
from shrinkserve.preprocess import decode

THUMBNAILS = 24
"""How many flipped images are shown."""
SIDE = 96
"""Longest side of a thumbnail in pixels."""


def to_html(record: dict[str, Any], dataset: Dataset) -> str:
    """A record of `shrinkserve bench` as a self-contained page.

    Args:
        record: see `shrinkserve.benchmark.record`.
        dataset: where the thumbnails come from.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("shrinkserve.benchmark.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    reference = record["stages"][record["reference"]]["name"]
    comparisons = record["accuracy"]["comparisons"] if record["accuracy"] else []
    return environment.get_template("report.html.jinja").render(
        record=record,
        outcome=outcome(record),
        sentence=verdict(record),
        reference=reference,
        against={c["after"]: c for c in comparisons if c["before"] == reference},
        chain=_chain(record),
        distributions=[_distribution(load) for load in record["loads"]],
        curve=charts.load_curve(_curves(record)),
        batches=_batches(record),
        phases=_phases(record),
        phase_names=charts.PHASES,
        flips=_flips(comparisons, record["classes"], dataset),
        describe=describe_load,
    )


def _chain(record: dict[str, Any]) -> str:
    if not record["accuracy"]:
        return ""
    position = {stage["name"]: n for n, stage in enumerate(record["stages"])}
    flips = {(position[c["before"]], position[c["after"]]): c["flips"] for c in record["accuracy"]["comparisons"]}
    return charts.chain(record["stages"], flips, record["reference"])


def _distribution(load: dict[str, Any]) -> dict[str, Any]:
    histogram, name = Histogram(load["latency"]["hdr"]), describe_load(load)
    marks = {f"p{percent:g}": histogram.percentile(percent) for percent in (50, 99)}
    return {"name": name, "picture": charts.distribution(histogram.buckets(), marks, f"Latency of {name}")}


def _curves(record: dict[str, Any]) -> dict[str, list[tuple[float, float, str]]]:
    """Throughput and p99 of every valid load test with one image a request, and of what the search tried."""
    curves: dict[str, list[tuple[float, float, str]]] = {}
    tried = [trial for search in record["slo"] for trial in search["trials"]]
    for load in (*record["loads"], *tried):
        if load["batch"] == 1 and (load["valid"] or load in tried) and not load["unsent"]:
            name = load["target"] if load["mode"] == "closed" else f"{load['target']}, open loop"
            p99 = load["latency"]["percentiles"]["p99"]["value"]
            curves.setdefault(name, []).append((load["images_per_second"], p99, describe_load(load)))
    return {name: sorted(points) for name, points in curves.items()}


def _batches(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Images a second by target and batch size at one worker; `share` is of the best, for the shade."""
    alone = [load for load in record["loads"] if load["mode"] == "closed" and load["concurrency"] == 1]
    if len({load["batch"] for load in alone}) < 2:
        return []
    best = max(load["images_per_second"] for load in alone) or 1.0
    return [{**load, "share": load["images_per_second"] / best} for load in alone]


def _phases(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the mean request's time goes: the server's own account, and the rest of what the client saw."""
    found: list[dict[str, Any]] = []
    for load in record["loads"]:
        if load["server"]:
            phases = dict(load["server"]["mean_ms"])
            phases["client and network"] = max(0.0, load["latency"]["mean"] - sum(phases.values()))
            found.append({"name": describe_load(load), "phases": phases, "total": sum(phases.values())})
    longest = max((entry["total"] for entry in found), default=0.0) or 1.0
    for entry in found:
        entry["picture"] = charts.stacked(entry["phases"], longest, f"Where time goes: {entry['name']}")
    return found


def _flips(comparisons: list[dict[str, Any]], classes: list[str], dataset: Dataset) -> list[dict[str, Any]]:
    listed = [(c, flip) for c in comparisons for flip in c["listed"]][:THUMBNAILS]
    return [
        {
            "step": f"{comparison['before']} to {comparison['after']}",
            "name": flip["name"],
            "picture": _thumbnail(dataset, flip["index"]),
            "label": classes[flip["label"]],
            "before": f"{classes[flip['before']]} (margin {flip['margin_before']:.3f})",
            "after": f"{classes[flip['after']]} (margin {flip['margin_after']:.3f})",
        }
        for comparison, flip in listed
    ]


def _thumbnail(dataset: Dataset, index: int) -> str:
    """The image as a data URL."""
    try:
        image = decode(dataset.record(index).encoded)
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
