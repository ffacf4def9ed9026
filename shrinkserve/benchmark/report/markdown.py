"""Report as Markdown, for a pull request or a release note."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.load.histogram import PERCENTILE_NAMES
from shrinkserve.benchmark.report.headline import headline, outcome
from shrinkserve.benchmark.report.numbers import figure, milliseconds, percent, percent_range, rate
from shrinkserve.benchmark.report.record import BenchRecord
from shrinkserve.benchmark.report.table import escape, table
from shrinkserve.confusion import ClassFigures
from shrinkserve.text import printable

SHOWN_CLASSES = 40
"""Most classes in a table."""


def to_markdown(record: BenchRecord) -> str:
    """Return a record as a Markdown page."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: BenchRecord) -> Iterator[str]:
    yield f"# {escape(record.model)}: {outcome(record)}"
    yield from ("", escape(headline(record)), "")
    yield from (f"* FAILED: {escape(miss)}" for miss in record.misses)
    if record.accuracy:
        yield from ("", "## Accuracy", "")
        yield from _accuracy(record.accuracy, record.reference_name)
        yield from (f"\nLeft out: {escape(line)}" for line in record.left_out)
    if classes := lowest_f1(record):
        yield from ("", f"## Classes of {escape(record.stages[-1].name)}", "")
        yield from _classes(classes, len(record.class_figures()))
    if record.loads:
        yield from ("", "## Latency and throughput", "")
        yield from _loads(record)
    for search in record.slo:
        met = f"is met up to {rate(search.requests_per_second)} requests/s"
        yield f"\n{escape(search.target)}: {search.slo} {met if search.requests_per_second else 'cannot be met'}."
    if record.perf_analyzer:
        yield from ("", "## perf_analyzer on the same server", "")
        yield from _perf_analyzer(record)
    if record.baseline:
        yield from ("", f"## Compared with {escape(record.baseline.file)}", "")
        rows = [
            (one.figure, figure(one.before.value, one.unit), figure(one.now.value, one.unit), one.unit, one.verdict)
            for one in record.baseline.figures
        ]
        yield from table(("figure", "before", "now", "unit", "verdict"), rows)
    yield from _environment(record)


def _accuracy(accuracy: AccuracyRecord, reference: str) -> list[str]:
    against = accuracy.against(reference)
    rows = []
    for score in accuracy.stages:
        comparison = against.get(score.stage)
        agreement = (comparison.flips, f"{comparison.mcnemar_p:.2g}") if comparison else ("", "")
        top5 = percent(score.top5.value)
        ece = f"{score.calibration.ece:.3f}" if score.calibration else ""
        rows.append((score.stage, percent(score.top1.value), percent_range(score.top1), top5, ece, *agreement))
    return table(("stage", "top-1", "95 % interval", "top-5", "ECE", f"flips against {reference}", "McNemar p"), rows)


def lowest_f1(record: BenchRecord) -> list[ClassFigures]:
    """Return the figures of the classes, or of the `SHOWN_CLASSES` with the lowest F1."""
    found = record.class_figures()
    return found if len(found) <= SHOWN_CLASSES else sorted(found, key=lambda one: one.f1)[:SHOWN_CLASSES]


def _classes(shown: Sequence[ClassFigures], measured: int) -> Iterator[str]:
    if len(shown) < measured:
        yield from (f"The {len(shown)} of {measured} classes with the lowest F1.", "")
    rows = [
        (one.name, *(percent(share) for share in (one.precision, one.recall, one.f1)), one.support) for one in shown
    ]
    yield from table(("class", "precision", "recall", "F1", "images"), rows)


def _loads(record: BenchRecord) -> list[str]:
    rows = []
    for load in record.loads:
        p99 = load.percentile("p99")
        rows.append(
            (
                load.title,
                *(milliseconds(load.percentile(name).value) for name in PERCENTILE_NAMES),
                f"{milliseconds(p99.low)} to {milliseconds(p99.high)}",
                rate(load.images_per_second),
                "valid" if load.valid else "invalid: " + "; ".join(load.reasons),
            )
        )
    return table(("load (ms)", *PERCENTILE_NAMES, "p99 95 % interval", "images/s", "figures"), rows)


def _perf_analyzer(record: BenchRecord) -> list[str]:
    rows = []
    for one in record.perf_analyzer:
        figures = (one.p50_ms, one.p99_ms, one.images_per_second)
        rows.append((one.target, one.concurrency, *("" if value is None else f"{value:.4g}" for value in figures)))
    return table(("target", "concurrency", "p50 ms", "p99 ms", "images/s"), rows)


def _environment(record: BenchRecord) -> Iterator[str]:
    machine = record.environment
    yield from ("", "## Environment", "")
    yield escape(f"{machine.cpu}, {machine.cores_usable} cores, {machine.memory_gib:.0f} GiB")
    gpus = escape(", ".join(machine.gpus) or "none")
    yield f"GPU: {gpus}; {machine.date}; weights `{record.weights_sha256[:12]}`"
    yield from ("", f"    {printable(machine.command)}")
