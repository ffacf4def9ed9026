"""Headline of a measurement: outcome, one sentence and the main figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from shrinkserve.benchmark.accuracy.run import AccuracyRecord
from shrinkserve.benchmark.accuracy.score import ScoreRecord
from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.report.numbers import milliseconds, percent, percent_range, rate
from shrinkserve.benchmark.report.record import BenchRecord


@dataclass(frozen=True)
class Tile:
    """Main figure: its name, its value and a note."""

    name: str
    value: str
    more: str


def outcome(record: BenchRecord) -> Literal["PARTIAL", "FAILED", "PASSED"]:
    """Return the outcome in one word."""
    if record.partial is not None:
        return "PARTIAL"
    return "FAILED" if record.misses else "PASSED"


def headline(record: BenchRecord) -> str:
    """Return one sentence: agreement with the checkpoint, accuracy and speed."""
    if record.partial is not None or not record.accuracy or not record.accuracy.images:
        return f"PARTIAL: {record.partial}"
    parts = [*_agreement(record, record.accuracy), f"top-1 {percent(_least_accurate(record).top1.value)}"]
    return f"{'; '.join([*parts, *_speed(record)])}."


def tiles(record: BenchRecord) -> list[Tile]:
    """Return the main figures."""
    found = []
    if record.accuracy and record.accuracy.images:
        flips = _flips(record, record.accuracy)
        worst = max(flips, key=lambda name: flips[name])
        images = f"of {record.accuracy.images:,}, {worst}"
        found.append(Tile(f"predictions unlike {record.reference_words}", f"{flips[worst]:,}", images))
        top1 = _least_accurate(record).top1
        found.append(Tile("top-1", percent(top1.value), f"95 %: {percent_range(top1)}"))
    if valid := record.valid_loads:
        quickest = min(valid, key=lambda load: load.percentile("p99").value)
        found.append(Tile("shortest p99", f"{milliseconds(quickest.percentile('p99').value)} ms", quickest.title))
        fastest = max(valid, key=lambda load: load.images_per_second)
        found.append(Tile("most images/s", rate(fastest.images_per_second), fastest.title))
    for search in record.slo:
        highest = f"{rate(search.requests_per_second)}/s" if search.requests_per_second else "not met"
        found.append(Tile(f"highest rate with {search.slo}", highest, search.target))
    return found


def _agreement(record: BenchRecord, accuracy: AccuracyRecord) -> Iterator[str]:
    flips = _flips(record, accuracy)
    same = [name for name, count in flips.items() if not count]
    if same:
        verb = "predicts" if len(same) == 1 else "predict"
        yield f"{_listed(same)} {verb} the same classes as {record.reference_words} for all {accuracy.images:,} images"
    for name, count in flips.items():
        if count:
            yield f"{name} differs from {record.reference_words} for {count:,} of {accuracy.images:,} images"


def _speed(record: BenchRecord) -> Iterator[str]:
    met = [search for search in record.slo if search.requests_per_second]
    if met:
        best = max(met, key=lambda search: search.requests_per_second)
        yield f"{best.slo} is met up to {rate(best.requests_per_second)} requests/s ({best.target})"
    elif fastest := _fastest(record):
        p99 = milliseconds(fastest.percentile("p99").value)
        yield f"{rate(fastest.images_per_second)} images/s with a p99 of {p99} ms ({fastest.title})"
    elif record.loads:
        yield "no load test has valid figures"


def _judged(record: BenchRecord) -> list[str]:
    """Return the stages that the headline is about: the servers, or else the last stage."""
    return record.servers or [record.stages[-1].name]


def _flips(record: BenchRecord, accuracy: AccuracyRecord) -> dict[str, int]:
    against = accuracy.against(record.reference_name)
    return {name: against[name].flips if name in against else 0 for name in _judged(record)}


def _least_accurate(record: BenchRecord) -> ScoreRecord:
    assert record.accuracy
    judged = _judged(record)
    scores = [score for score in record.accuracy.stages if score.stage in judged]
    return min(scores, key=lambda score: score.top1.value)


def _fastest(record: BenchRecord) -> LoadRecord | None:
    """Return the valid load test with the most images per second, within the bound on p99 if there is one."""
    bound = float("inf") if record.gates.max_p99 is None else 1e3 * record.gates.max_p99
    fit = [load for load in record.valid_loads if load.percentile("p99").value <= bound]
    return max(fit, key=lambda load: load.images_per_second, default=None)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
