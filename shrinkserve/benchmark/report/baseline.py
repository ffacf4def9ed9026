"""Comparison of two records: regressions that chance does not explain."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.accuracy.score import ScoreRecord, unpack_flags
from shrinkserve.benchmark.report.record import BenchRecord, FigureRecord, Verdict
from shrinkserve.benchmark.stats import CONFIDENCE, Estimate, mcnemar
from shrinkserve.errors import DataError

_SAME: Verdict = "same within the intervals"


def compare_with_baseline(record: BenchRecord, baseline: BenchRecord) -> list[FigureRecord]:
    """Compare every figure that both records have.

    Accuracy is compared image by image (McNemar), or by its intervals if the images are in another order. Latency and
    throughput differ if their intervals do not overlap.

    Raises:
        DataError: the records are of different images.
    """
    ours, theirs = _images(record), _images(baseline)
    if ours != theirs:
        raise DataError(
            "baseline: measured on other images",
            expected=ours,
            found=theirs,
            hint="measure both on the same data with the same preprocessing",
        )
    figures = list(_loads(record, baseline))
    if record.accuracy and baseline.accuracy:
        figures = [*_accuracy(record.accuracy, baseline.accuracy), *figures]
    return figures


def _images(record: BenchRecord) -> str:
    one = record.accuracy
    return f"{one.images} images, checksum {one.fingerprint}" if one else "no images"


def _accuracy(ours: AccuracyRecord, theirs: AccuracyRecord) -> Iterator[FigureRecord]:
    """Compare the top-1 of every stage that both have."""
    before = {_without_version(score.stage): score for score in theirs.stages}
    for score in ours.stages:
        if was := before.get(_without_version(score.stage)):
            figure = f"{score.stage}: top-1"
            if ours.order == theirs.order:
                yield _by_image(figure, was, score)
            else:
                yield _by_interval(figure, "fraction", was.top1, score.top1, higher_is_better=True)


def _without_version(stage: str) -> str:
    """Return a stage's name without its version, which differs between releases."""
    return re.sub(r" v\d+$", "", stage)


def _by_image(figure: str, was: ScoreRecord, now: ScoreRecord) -> FigureRecord:
    """Compare by McNemar's test, which finds drops that are far inside the intervals."""
    then, current = (unpack_flags(one.right, one.images) for one in (was, now))
    lost, gained = int((then & ~current).sum()), int((~then & current).sum())
    p = mcnemar(lost, gained)
    verdict: Verdict = _SAME if p >= 1 - CONFIDENCE else "regression" if lost > gained else "better"
    return FigureRecord(figure, "fraction", _estimate(was.top1), _estimate(now.top1), verdict, lost, gained, p)


def _loads(record: BenchRecord, baseline: BenchRecord) -> Iterator[FigureRecord]:
    before = {load.title: load for load in baseline.loads if load.valid}
    for load in record.loads:
        was = before.get(load.title)
        if was is None or not load.valid:
            continue
        for name in ("p50", "p99"):
            then, now = was.percentile(name), load.percentile(name)
            yield _by_interval(f"{load.title}: {name}", "ms", then, now, higher_is_better=False)
        if load.mode == "closed":  # in an open loop it is the offered rate
            figure = f"{load.title}: throughput"
            yield _by_interval(figure, "images/s", was.throughput, load.throughput, higher_is_better=True)


def _by_interval(figure: str, unit: str, was: Estimate, now: Estimate, *, higher_is_better: bool) -> FigureRecord:
    worse = now.value < was.value if higher_is_better else now.value > was.value
    verdict: Verdict = _SAME if was.overlaps(now) else "regression" if worse else "better"
    return FigureRecord(figure, unit, _estimate(was), _estimate(now), verdict)


def _estimate(one: Estimate) -> Estimate:
    """Return the value and interval of a figure that may have more fields."""
    return Estimate(one.low, one.high, one.value)
