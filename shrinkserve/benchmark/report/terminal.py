"""Record of a measurement as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.report.headline import headline
from shrinkserve.benchmark.report.numbers import milliseconds, percent, percent_range, rate
from shrinkserve.benchmark.report.record import BenchRecord
from shrinkserve.terminal import print_line, print_table


def print_record(record: BenchRecord) -> None:
    """Print accuracy by stage, latency and throughput by load test, and the headline."""
    if record.accuracy:
        headings = ("stage", "top-1", "95 % interval", "top-5", f"flips against {record.reference_name}", "worst logit")
        title = f"{record.model}: {record.accuracy.images:,} images of {record.dataset.root}"
        print_table(headings, _accuracy(record.accuracy, record.reference_name), title=title)
    if record.loads:
        headings = ("load", "p50", "p90", "p99", "images/s", "figures")
        title = "Latency in milliseconds, throughput in images/s"
        print_table(headings, _loads(record), title=title, left=("figures",))
    for line in record.left_out:
        print_line(f"left out: {line}")
    print_line(headline(record))


def _accuracy(accuracy: AccuracyRecord, reference: str) -> Iterator[tuple[object, ...]]:
    against = accuracy.against(reference)
    for score in accuracy.stages:
        row = (score.stage, percent(score.top1.value), percent_range(score.top1), percent(score.top5.value))
        if comparison := against.get(score.stage):
            worst = "not finite" if comparison.worst is None else f"{comparison.worst:.1e}"
            yield (*row, comparison.flips, worst)
        else:
            yield row


def _loads(record: BenchRecord) -> Iterator[tuple[object, ...]]:
    for load in record.loads:
        latency = (milliseconds(load.percentile(name).value) for name in ("p50", "p90", "p99"))
        valid = "valid" if load.valid else f"invalid: {'; '.join(load.reasons)}"
        yield (load.title, *latency, rate(load.images_per_second), valid)
