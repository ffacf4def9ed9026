"""Where a request's time goes inside Triton, from its own statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

StatisticsSource = Callable[[], dict[str, Any]]

PHASES = {
    "queue": "queue",
    "compute_input": "compute_input",
    "compute_infer": "compute_infer",
    "compute_output": "compute_output",
}
"""Our name of a phase -> the key in Triton's `inference_stats`; each holds a count and nanoseconds."""


class TritonStatistics:
    """Two readings of a server's cumulative statistics, and what happened between them.

    Args:
        source: reads them; None when there is no server.
    """

    def __init__(self, source: StatisticsSource | None) -> None:
        self._source = source
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}

    def begin(self) -> None:
        """First reading."""
        self._before = self._source() if self._source else {}

    def end(self) -> None:
        """Second reading."""
        self._after = self._source() if self._source else {}

    def difference(self, *path: str) -> int:
        """How much a counter grew, e.g. of ``("inference_stats", "queue", "ns")``."""
        return _at(self._after, path) - _at(self._before, path)

    @property
    def known(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._after)

    @property
    def batches(self) -> dict[int, tuple[int, int]]:
        """Batch size -> (executions, nanoseconds of inference) between the readings."""
        before = {int(b["batch_size"]): b["compute_infer"] for b in self._before.get("batch_stats", ())}
        found = {}
        for entry in self._after.get("batch_stats", ()):
            size, now = int(entry["batch_size"]), entry["compute_infer"]
            was = before.get(size, {})
            count = int(now.get("count", 0)) - int(was.get("count", 0))
            if count:
                found[size] = (count, int(now.get("ns", 0)) - int(was.get("ns", 0)))
        return found


def split(statistics: TritonStatistics) -> dict[str, Any] | None:
    """Mean milliseconds a request spent in each phase inside the server, and how requests were batched."""
    if not statistics.known:
        return None
    requests = statistics.difference("inference_stats", "success", "count")
    if not requests:
        return None
    executions = statistics.difference("execution_count")
    return {
        "requests": requests,
        "failed": statistics.difference("inference_stats", "fail", "count"),
        "mean_ms": {
            phase: statistics.difference("inference_stats", key, "ns") / requests / 1e6 for phase, key in PHASES.items()
        },
        "total_mean_ms": statistics.difference("inference_stats", "success", "ns") / requests / 1e6,
        "images_per_execution": statistics.difference("inference_count") / executions if executions else None,
        "batches": {
            str(size): {"executions": count, "mean_ms": ns / count / 1e6}
            for size, (count, ns) in sorted(statistics.batches.items())
        },
    }


def _at(statistics: Mapping[str, Any], path: tuple[str, ...]) -> int:
    value: Any = statistics
    for key in path:
        value = value.get(key, {}) if isinstance(value, Mapping) else {}
    return int(value or 0)  # over gRPC Triton's 64-bit numbers are JSON strings
