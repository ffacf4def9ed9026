"""Gates that failed, one line each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.report.record import BenchRecord, FigureRecord


def misses(record: BenchRecord, gates: Gates) -> list[str]:
    """Return a line for each bound that a measurement does not meet."""
    lines = [*_flips(record, gates), *_top1(record, gates), *_latency(record, gates), *_throughput(record, gates)]
    return [*lines, *_searches(record), *_regressions(record)]


def _flips(record: BenchRecord, gates: Gates) -> Iterator[str]:
    reference = record.reference_name
    for name, comparison in record.accuracy.against(reference).items() if record.accuracy else ():
        bound = 0 if gates.max_flips is None and comparison.gated else gates.max_flips
        if bound is not None and comparison.flips > bound:
            found = f"{comparison.flips} of {comparison.images} predictions differ from {reference}"
            yield f"{name}: {found}, at most {bound} allowed"


def _top1(record: BenchRecord, gates: Gates) -> Iterator[str]:
    if gates.min_top1 is None or record.accuracy is None:
        return
    stages = record.accuracy.stages
    for score in [one for one in stages if one.stage in record.servers] or stages[-1:]:
        if score.top1.value < gates.min_top1:
            yield f"{score.stage}: top-1 {score.top1.value:.2%}, at least {gates.min_top1:.2%} required"


def _latency(record: BenchRecord, gates: Gates) -> Iterator[str]:
    bounded = gates.max_p99 is not None or gates.min_throughput is not None
    if bounded and not record.loads and not record.partial:
        yield "latency and throughput are bounded, but there was no load test: name a --url, or add --everywhere"
    for load in record.loads if gates.max_p99 is not None else ():
        assert gates.max_p99 is not None
        p99 = load.percentile("p99").value
        if not load.valid:
            yield f"{load.title}: p99 is not valid ({'; '.join(load.reasons)})"
        elif p99 > 1e3 * gates.max_p99:
            yield f"{load.title}: p99 {p99:.1f} ms, at most {1e3 * gates.max_p99:g} ms allowed"


def _throughput(record: BenchRecord, gates: Gates) -> Iterator[str]:
    if gates.min_throughput is None:
        return
    valid: defaultdict[str, list[float]] = defaultdict(list)
    for load in record.loads:
        valid[load.target] += [load.images_per_second] if load.valid else []
    for target, figures in valid.items():
        if not figures:
            yield f"{target}: throughput is not valid (no load test has valid figures)"
        elif max(figures) < gates.min_throughput:
            yield f"{target}: at most {max(figures):.1f} images/s, at least {gates.min_throughput:g} required"


def _searches(record: BenchRecord) -> Iterator[str]:
    for search in record.slo:
        if not search.requests_per_second and search.trials:
            lowest = search.trials[0]
            rate, latency = lowest.offered_requests_per_second, LatencyHistogram(lowest.latency.hdr)
            found = f"p{search.percent:g} is {1e3 * latency.percentile(search.percent):.1f} ms at {rate:.1f} requests/s"
            yield f"{search.target}: {search.slo} cannot be met: {found}"


def _regressions(record: BenchRecord) -> Iterator[str]:
    for figure in record.baseline.figures if record.baseline else ():
        if figure.verdict == "regression":
            change = f"was {figure.before.value:.4g}, is {figure.now.value:.4g} {figure.unit}"
            yield f"{figure.figure}: {change}, {_evidence(figure)}"


def _evidence(figure: FigureRecord) -> str:
    if figure.mcnemar_p is None:
        return "the intervals do not overlap"
    return f"{figure.lost} images lost, {figure.gained} gained (p = {figure.mcnemar_p:.2g})"
