"""Is this release worse than the one before? Two records, compared with their intervals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from shrinkserve.benchmark.accuracy.score import unpack
from shrinkserve.benchmark.stats import CONFIDENCE, Interval, mcnemar
from shrinkserve.benchmark.timing import describe_load
from shrinkserve.errors import DataError

_SAME = "same within the intervals"


def compare_with_baseline(record: dict[str, Any], baseline: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that both records have; a regression is one that chance does not explain.

    Accuracy is compared image by image (McNemar), or by its intervals where the images come in another order;
    latency and throughput by their intervals, which must not even touch.

    Raises:
        DataError: the records are of different images.
    """
    ours, theirs = (r["accuracy"]["fingerprint"] if r["accuracy"] else None for r in (record, baseline))
    if ours != theirs:
        raise DataError(
            "baseline: measured on other images",
            expected=f"the {record['accuracy']['images']} images of {record['dataset']['root']} ({ours})",
            found=f"{(baseline['accuracy'] or {}).get('images', 0)} of {baseline['dataset']['root']} ({theirs})",
            hint="measure both on the same data, prepared alike",
        )
    return [*_accuracy(record, baseline), *_loads(record, baseline)]


def _accuracy(record: dict[str, Any], baseline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Top-1 of every stage that both have: image by image, which shows drops that are far within the intervals."""
    before = {_role(score["stage"]): score for score in baseline["accuracy"]["stages"]}
    paired = record["accuracy"]["order"] == baseline["accuracy"]["order"]
    for score in record["accuracy"]["stages"]:
        was = before.get(_role(score["stage"]))
        if was is None:
            continue
        entry = _entry(f"{score['stage']}: top-1", "fraction", was["top1"], score["top1"], higher_is_better=True)
        if paired:
            then, now = (unpack(one["right"], one["images"]) for one in (was, score))
            lost, gained = int((then & ~now).sum()), int((~then & now).sum())
            p = mcnemar(lost, gained)
            entry |= {"lost": lost, "gained": gained, "mcnemar_p": p}
            entry["verdict"] = _SAME if p >= 1 - CONFIDENCE else "regression" if lost > gained else "better"
        yield entry


def _role(stage: str) -> str:
    """A stage's name without the version, which differs from release to release."""
    return re.sub(r" v\d+$", "", stage)


def _loads(record: dict[str, Any], baseline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    before = {describe_load(load): load for load in baseline["loads"] if load["valid"]}
    for load in record["loads"]:
        was = before.get(name := describe_load(load))
        if was is None or not load["valid"]:
            continue
        for percentile in ("p50", "p99"):
            pair = (one["latency"]["percentiles"][percentile] for one in (was, load))
            yield _entry(f"{name}: {percentile}", "ms", *pair, higher_is_better=False)
        if load["mode"] == "closed":  # in an open loop the rate is what was offered
            pair = (one["throughput"] for one in (was, load))
            yield _entry(f"{name}: throughput", "images/s", *pair, higher_is_better=True)


def _entry(
    figure: str, unit: str, was: dict[str, float], now: dict[str, float], *, higher_is_better: bool
) -> dict[str, Any]:
    apart = not Interval(was["low"], was["high"]).overlaps(Interval(now["low"], now["high"]))
    worse = now["value"] < was["value"] if higher_is_better else now["value"] > was["value"]
    verdict = _SAME if not apart else "regression" if worse else "better"
    keys = ("value", "low", "high")
    return {
        "figure": figure,
        "unit": unit,
        "before": {key: was[key] for key in keys},
        "now": {key: now[key] for key in keys},
        "verdict": verdict,
    }
