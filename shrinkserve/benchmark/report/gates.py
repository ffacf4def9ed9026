"""Gates: bounds on the figures of a measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from shrinkserve.benchmark.timing import parse_duration
from shrinkserve.errors import ConfigError
from shrinkserve.toml import read_toml, validate


@dataclass(frozen=True)
class Gates:
    """Bounds; None is no bound.

    Attributes:
        min_top1: least top-1 accuracy, as a fraction, of every server (without a server: of the last stage).
        max_flips: most images for which a stage may differ from the checkpoint. With None, stages with the same
            weights in float32 may not differ at all, and others are not bounded.
        max_p99: longest 99th percentile of the latency, in seconds, of every load test.
        min_throughput: least images per second, of each target's best valid load test.
    """

    min_top1: Annotated[float, Ge(0), Le(1)] | None = None
    max_flips: Annotated[int, Ge(0)] | None = None
    max_p99: Annotated[float, Ge(0)] | None = None
    min_throughput: Annotated[float, Ge(0)] | None = None

    def override(self, other: Gates) -> Gates:
        """Return these gates, replaced by those of `other` where it has one."""
        return replace(self, **{key: value for key, value in vars(other).items() if value is not None})


def read_gates(path: Path) -> Gates:
    """Read a gates file: TOML with the fields of `Gates` as keys, and ``max_p99`` as text such as ``"20ms"``.

    Raises:
        ConfigError: the file cannot be read, or has unknown keys or wrong values.
    """
    raw = read_toml(path)
    if "max_p99" in raw:
        where = f"{path}: max_p99"
        if not isinstance(raw["max_p99"], str):
            raise ConfigError(where, expected='a duration such as "20ms"', found=raw["max_p99"])
        raw["max_p99"] = parse_duration(raw["max_p99"], where)
    return validate(Gates, raw, str(path))
