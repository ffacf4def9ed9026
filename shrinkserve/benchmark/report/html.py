"""Report as one self-contained HTML page without scripts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

from shrinkserve.benchmark.load.histogram import PERCENTILE_NAMES, LatencyHistogram
from shrinkserve.benchmark.load.perf_analyzer import PerfAnalyzerRecord
from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.report import charts, numbers, svg, tree
from shrinkserve.benchmark.report.flips import flip_groups
from shrinkserve.benchmark.report.headline import headline, outcome, tiles
from shrinkserve.benchmark.report.markdown import lowest_f1
from shrinkserve.benchmark.report.record import BenchRecord
from shrinkserve.confusion import Confusion, worst_confusions
from shrinkserve.data import Dataset
from shrinkserve.text import printable

MATRIX_CLASSES = 40
"""Most classes of a confusion matrix; squares of more are too small."""
CLIENT = "client and network"
PHASES = ("queue", "compute_input", "compute_infer", "compute_output", CLIENT)


def to_html(record: BenchRecord, dataset: Dataset) -> str:
    """Return a record as a self-contained page.

    Args:
        record: the measurement.
        dataset: source of the thumbnails.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("shrinkserve.benchmark.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, keep="\n") if type(value) is str else value,
    )
    environment.filters |= {"percent": numbers.percent, "ms": numbers.milliseconds, "rate": numbers.rate}
    environment.filters["percent_range"] = numbers.percent_range
    return environment.get_template("report.html.jinja").render(
        record=record,
        outcome=outcome(record),
        headline=headline(record),
        tiles=tiles(record),
        against=record.accuracy.against(record.reference_name) if record.accuracy else {},
        tree=_tree(record),
        reliability=_reliability(record),
        classes=lowest_f1(record),
        confusions=_confusions(record),
        matrix=_matrix(record),
        curves=_curves(record),
        ridges=_ridges(record),
        batches=_batches(record),
        phases=_phases(record),
        phase_names=PHASES,
        shapes=svg.SHAPES,
        percentiles=PERCENTILE_NAMES,
        perf_analyzer=_perf_analyzer(record),
        flips=flip_groups(record, dataset),
        figure=numbers.figure,
    )


def _tree(record: BenchRecord) -> str:
    """Return the picture of the stages; empty if nothing was compared."""
    if not record.accuracy:
        return ""
    flips = {(one.before, one.after): one.flips for one in record.accuracy.comparisons}
    nodes = []
    for number, (stage, score) in enumerate(zip(record.stages, record.accuracy.stages, strict=True)):
        note, reference = f"top-1 {numbers.percent(score.top1.value)}", number == record.reference
        if stage.parent is None:
            nodes.append(tree.Node(stage.name, note, None, None, bad=False, reference=reference))
        else:
            parent = record.stages[stage.parent]
            count = flips[parent.name, stage.name]
            bad = count > 0 and stage.exact and parent.exact
            nodes.append(tree.Node(stage.name, note, stage.parent, count, bad=bad, reference=reference))
    return tree.draw(nodes)


def _reliability(record: BenchRecord) -> str:
    """Draw the calibration of the last stage; empty if it was not measured."""
    calibration = record.accuracy.stages[-1].calibration if record.accuracy else None
    return charts.reliability(calibration.bins) if calibration else ""


def _confusions(record: BenchRecord) -> list[Confusion]:
    """Return the most frequent errors of the last stage."""
    cells = record.accuracy.confusion if record.accuracy else None
    return worst_confusions(record.classes, cells or [], 10)


def _matrix(record: BenchRecord) -> str:
    """Draw the confusion matrix of the last stage; empty if it was not measured or has too many classes."""
    cells = record.accuracy.confusion if record.accuracy else None
    if not cells or not 1 < len(record.class_figures()) <= MATRIX_CLASSES:
        return ""
    return charts.confusion_matrix([printable(name) for name in record.classes], cells)


@dataclass(frozen=True)
class Curves:
    """Load curves and the names of their series."""

    names: list[str]
    picture: str


def _curves(record: BenchRecord) -> Curves | None:
    """Draw the load tests with one image in a request that kept up, and the trials of the searches."""
    series: defaultdict[str, list[charts.LoadPoint]] = defaultdict(list)
    for load in record.loads:
        _add_point(series, load, labelled=True)
    for search in record.slo:
        for trial in search.trials:
            _add_point(series, trial, labelled=False)
    if not any(len(points) > 1 for points in series.values()):
        return None
    ordered = {name: sorted(points, key=lambda point: point.load) for name, points in series.items()}
    return Curves(list(ordered), charts.load_curves(ordered))


def _add_point(series: defaultdict[str, list[charts.LoadPoint]], load: LoadRecord, *, labelled: bool) -> None:
    """Add a load test. Trials of a search have no label, and are not hollow if the rate was too high."""
    if load.batch != 1 or load.unsent or not load.latency.count:
        return
    p99, rate = load.percentile("p99"), load.offered_requests_per_second
    label = f"c{load.concurrency}" if rate is None else f"{rate:.0f}/s"
    point = charts.LoadPoint(
        load=load.concurrency if rate is None else rate,
        throughput=load.images_per_second,
        p99=p99.value,
        low=p99.low,
        high=p99.high,
        valid=load.valid or not labelled,
        label=label if labelled else "",
        title=f"{load.title}: {numbers.milliseconds(p99.value)} ms",
    )
    series[load.target if rate is None else f"{load.target}, open loop"].append(point)


def _ridges(record: BenchRecord) -> str:
    """Draw the distribution of every load test; empty without any."""
    loads = []
    for load in record.loads:
        histogram = LatencyHistogram(load.latency.hdr)
        if buckets := [(1e3 * low, 1e3 * high, count) for low, high, count in histogram.buckets()]:
            marks = {f"p{percent:g}": 1e3 * histogram.percentile(percent) for percent in (50, 99, 99.9)}
            loads.append(charts.LatencyRidge(load.title, buckets, marks))
    return charts.ridges(loads) if loads else ""


@dataclass(frozen=True)
class BatchTable:
    """Load tests with one worker, by target and batch size; `best` is the highest throughput."""

    sizes: list[int]
    rows: dict[str, dict[int, LoadRecord]]
    best: float


def _batches(record: BenchRecord) -> BatchTable | None:
    alone = [load for load in record.loads if load.mode == "closed" and load.concurrency == 1]
    rows: defaultdict[str, dict[int, LoadRecord]] = defaultdict(dict)
    for load in alone:
        rows[load.target][load.batch] = load
    sizes = sorted({load.batch for load in alone})
    best = max((load.images_per_second for load in alone), default=0.0) or 1.0
    return BatchTable(sizes, dict(rows), best) if len(sizes) > 1 else None


@dataclass(frozen=True)
class PhaseRow:
    """Mean time of a request by phase, in milliseconds; `widths` are percent of the longest row."""

    name: str
    phases: dict[str, float]
    widths: list[float]
    total: float
    together: float | None


def _phases(record: BenchRecord) -> list[PhaseRow]:
    """Return the mean time of a request in the server by its statistics, and the rest of the client's latency.

    The statistics of an ensemble have the compute times of its models, but not their queues: the remaining time in
    the server is queue time.
    """
    times = []
    for load in record.loads:
        if load.server:
            phases, inside = asdict(load.server.mean_ms), load.server.total_mean_ms
            phases["queue"] += max(0.0, inside - sum(phases.values()))
            phases[CLIENT] = max(0.0, load.latency.mean - inside)
            times.append((load.title, phases, load.server.images_per_execution))
    longest = max((sum(phases.values()) for _, phases, _ in times), default=0.0) or 1.0
    return [
        PhaseRow(name, phases, [100 * phases[one] / longest for one in PHASES], sum(phases.values()), together)
        for name, phases, together in times
    ]


@dataclass(frozen=True)
class PerfAnalyzerRow:
    """Run of perf_analyzer, and our load test of the same target and concurrency."""

    theirs: PerfAnalyzerRecord
    ours: LoadRecord | None


def _perf_analyzer(record: BenchRecord) -> list[PerfAnalyzerRow]:
    closed = [load for load in record.loads if load.mode == "closed" and load.batch == 1]
    ours = {(load.target, load.concurrency): load for load in closed}
    return [PerfAnalyzerRow(one, ours.get((one.target, one.concurrency))) for one in record.perf_analyzer]
