"""Time of a request inside Triton, from the server's statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

StatisticsSource = Callable[[], Mapping[str, object]]


@dataclass(frozen=True)
class Phases:
    """Milliseconds in each phase. The names are those of Triton's `inference_stats`."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float

    @property
    def compute(self) -> float:
        """Milliseconds without the queue."""
        return self.compute_input + self.compute_infer + self.compute_output


@dataclass(frozen=True)
class BatchTime:
    """Executions of one batch size and their mean duration."""

    executions: int
    mean_ms: float


@dataclass(frozen=True)
class ServerTime:
    """Statistics of the server between two readings.

    Attributes:
        requests: number of successful requests.
        failed: number of failed ones.
        mean_ms: mean time of a request in each phase.
        total_mean_ms: mean time of a request in the server.
        images_per_execution: mean batch size of an execution; None if unknown.
        batches: batch size -> executions.
    """

    requests: int
    failed: int
    mean_ms: Phases
    total_mean_ms: float
    images_per_execution: float | None
    batches: dict[str, BatchTime]


class TritonStatistics:
    """Two readings of a server's cumulative statistics and the difference between them.

    Args:
        source: function that reads the statistics; None without a server.
    """

    def __init__(self, source: StatisticsSource | None) -> None:
        self._source = source
        self._before: Mapping[str, object] = {}
        self._after: Mapping[str, object] = {}

    def begin(self) -> None:
        """Take the first reading."""
        self._before = self._source() if self._source else {}

    def end(self) -> None:
        """Take the second reading."""
        self._after = self._source() if self._source else {}

    def difference(self, *path: str) -> int:
        """Return the growth of a counter, e.g. ``("inference_stats", "queue", "ns")``."""
        return _counter(self._after, *path) - _counter(self._before, *path)

    def batches(self) -> dict[str, BatchTime]:
        """Return the executions between the two readings by batch size, in ascending order."""
        before, after = _batch_stats(self._before), _batch_stats(self._after)
        found = {}
        for size in sorted(after):
            count, ns = (_counter(after[size], key) - _counter(before.get(size, {}), key) for key in ("count", "ns"))
            if count:
                found[str(size)] = BatchTime(count, ns / count / 1e6)
        return found

    def to_record(self) -> ServerTime | None:
        """Return the mean time of a request in each phase, and the batches; None without a request."""
        requests = self.difference("inference_stats", "success", "count")
        if not self._after or not requests:
            return None

        def mean_ms(phase: str) -> float:
            return self.difference("inference_stats", phase, "ns") / requests / 1e6

        executions = self.difference("execution_count")
        return ServerTime(
            requests=requests,
            failed=self.difference("inference_stats", "fail", "count"),
            mean_ms=Phases(*map(mean_ms, ("queue", "compute_input", "compute_infer", "compute_output"))),
            total_mean_ms=mean_ms("success"),
            images_per_execution=self.difference("inference_count") / executions if executions else None,
            batches=self.batches(),
        )


def _batch_stats(statistics: Mapping[str, object]) -> dict[int, object]:
    entries = statistics.get("batch_stats", ())
    assert isinstance(entries, list | tuple)
    return {int(entry["batch_size"]): entry["compute_infer"] for entry in entries}


def _counter(statistics: object, *path: str) -> int:
    """Return a counter; protobuf's JSON leaves out zeros and writes 64-bit numbers as strings."""
    for key in path:
        statistics = statistics.get(key) if isinstance(statistics, Mapping) else None
    return int(statistics) if isinstance(statistics, str | int) else 0
