"""What figures must hold, and a line for each that does not."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.timing import describe_load, parse_duration
from shrinkserve.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Gates:
    """Bounds; None is no bound.

    Attributes:
        min_top1: fraction of the images that every measured server (without one: the last stage) gets right.
        max_flips: images on which a stage may answer otherwise than the checkpoint. None holds the stages of the
            same weights in float32 to 0, and no other.
        max_p99: seconds, of every load test.
        min_throughput: images a second, of each target's best valid load test.
    """

    min_top1: float | None = None
    max_flips: int | None = None
    max_p99: float | None = None
    min_throughput: float | None = None

    def override(self, other: Gates) -> Gates:
        """These gates, with those of `other` where it has one."""
        return replace(self, **{key: value for key, value in vars(other).items() if value is not None})


def read_gates(path: Path) -> Gates:
    """Read a gates file: TOML, the names of `Gates` as keys, ``max_p99`` as a duration such as ``"20ms"``.

    Raises:
        ConfigError: not such a file; names every key that is unknown or of the wrong type.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: not a readable gates file ({exc})", hint=_SHAPE) from exc
    known = ", ".join(_KINDS)
    faults = []
    for key, value in raw.items():
        near = difflib.get_close_matches(key, _KINDS, n=1)
        if key not in _KINDS:
            faults.append(f"{key}: unknown key, {f'did you mean {near[0]}?' if near else f'known: {known}'}")
        elif key == "max_p99" and isinstance(value, str):
            raw[key] = parse_duration(value, f"{path}: {key}")
        elif not _fits(key, value):
            faults.append(f"{key}: expected {_KINDS[key]}, found {value!r}")
    if faults:
        raise ConfigError(f"{path}: {'; '.join(faults)}")
    return Gates(**raw)


_SHAPE = "give a TOML file with lines such as `min_top1 = 0.75`"

_KINDS = {
    "min_top1": "a fraction from 0 to 1",
    "max_flips": "a whole number from 0",
    "max_p99": 'a duration such as "20ms"',
    "min_throughput": "a number from 0",
}
"""Keys of a gates file, and what each takes."""


def _fits(key: str, value: object) -> bool:
    if key == "max_p99" or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= (1 if key == "min_top1" else float("inf")) and (key != "max_flips" or isinstance(value, int))


def misses(record: dict[str, Any], gates: Gates) -> list[str]:
    """A line for every bound that a bench record does not hold."""
    return [*_accuracy(record, gates), *_latency(record, gates), *_throughput(record, gates), *_promises(record)]


def _accuracy(record: dict[str, Any], gates: Gates) -> Iterator[str]:
    accuracy = record.get("accuracy")
    if not accuracy:
        return
    reference = record["stages"][record["reference"]]["name"]
    for comparison in accuracy["comparisons"]:
        bound = gates.max_flips if gates.max_flips is not None else 0 if comparison["gated"] else None
        if comparison["before"] == reference and bound is not None and comparison["flips"] > bound:
            yield (
                f"{comparison['after']}: {comparison['flips']} of {comparison['images']} answers differ from the "
                f"{reference}'s, at most {bound} allowed"
            )
    kinds = {stage["name"]: stage["kind"] for stage in record["stages"]}
    for stage in [s for s in accuracy["stages"] if kinds[s["stage"]] == "server"] or accuracy["stages"][-1:]:
        if gates.min_top1 is not None and stage["top1"]["value"] < gates.min_top1:
            yield f"{stage['stage']}: top-1 {stage['top1']['value']:.2%}, at least {gates.min_top1:.2%} asked"


def _latency(record: dict[str, Any], gates: Gates) -> Iterator[str]:
    if not record["loads"] and not record["partial"] and (gates.max_p99, gates.min_throughput) != (None, None):
        yield "no load test that could hold what is asked of latency and throughput: name a --url, or add --everywhere"
    for load in record["loads"]:
        name, p99 = describe_load(load), load["latency"]["percentiles"]["p99"]["value"]
        if gates.max_p99 is None:
            continue
        if not load["valid"]:
            yield f"{name}: p99 cannot be judged ({'; '.join(load['reasons'])})"
        elif p99 > 1e3 * gates.max_p99:
            yield f"{name}: p99 {p99:.1f} ms, at most {1e3 * gates.max_p99:g} ms asked"


def _throughput(record: dict[str, Any], gates: Gates) -> Iterator[str]:
    if gates.min_throughput is None:
        return
    valid: dict[str, list[float]] = {load["target"]: [] for load in record["loads"]}
    for load in record["loads"]:
        if load["valid"]:
            valid[load["target"]].append(load["images_per_second"])
    for target, figures in valid.items():
        if not figures:
            yield f"{target}: throughput cannot be judged (no load test gave valid figures)"
        elif max(figures) < gates.min_throughput:
            yield f"{target}: {max(figures):.1f} images/s at best, at least {gates.min_throughput:g} asked"


def _promises(record: dict[str, Any]) -> Iterator[str]:
    for search in record.get("slo", ()):
        if not search["requests_per_second"] and search["trials"]:
            lowest = search["trials"][0]
            rate, load = lowest["offered_requests_per_second"], LatencyHistogram(lowest["latency"]["hdr"])
            at_best = 1e3 * load.percentile(search["percent"])
            yield (
                f"{search['target']}: {search['slo']} cannot be met: p{search['percent']:g} is {at_best:.1f} ms at "
                f"{rate:.1f} requests/s"
            )
    for figure in (record.get("baseline") or {}).get("figures", ()):
        if figure["verdict"] == "regression":
            was, now = figure["before"]["value"], figure["now"]["value"]
            why = "beyond both intervals"
            if "mcnemar_p" in figure:
                why = f"{figure['lost']} images lost, {figure['gained']} gained (p = {figure['mcnemar_p']:.2g})"
            yield f"{figure['figure']}: was {was:.4g}, is {now:.4g} {figure['unit']}, {why}"
