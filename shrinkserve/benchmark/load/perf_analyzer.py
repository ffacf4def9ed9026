"""Measurements by Triton's own load generator, if it is on PATH."""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from shrinkserve.benchmark.plain import OPTIONAL

PROGRAM = "perf_analyzer"
SECONDS = 300
"""Longest duration of one run."""


@dataclass(frozen=True)
class PerfAnalyzerRecord:
    """Run of `perf_analyzer`: its figures, or the error of a run that failed."""

    target: str
    concurrency: int
    images_per_second: float | None = field(default=None, metadata=OPTIONAL)
    p50_ms: float | None = field(default=None, metadata=OPTIONAL)
    p90_ms: float | None = field(default=None, metadata=OPTIONAL)
    p95_ms: float | None = field(default=None, metadata=OPTIONAL)
    p99_ms: float | None = field(default=None, metadata=OPTIONAL)
    error: str | None = field(default=None, metadata=OPTIONAL)


def program() -> str | None:
    """Return the path of the program; None if it is not on PATH."""
    return shutil.which(PROGRAM)


def measure(url: str, model: str, concurrencies: Sequence[int]) -> list[PerfAnalyzerRecord]:
    """Run closed loops of `perf_analyzer`. A failed run does not end the measurement; its record has the error.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT``.
        model: name of the model; the requests have random pixels.
        concurrencies: one run for each.
    """
    parts = urlsplit(url)
    records = []
    for concurrency in concurrencies:
        with tempfile.TemporaryDirectory(prefix="shrinkserve-perf-") as folder:
            table = Path(folder) / "latency.csv"
            command = [
                *(PROGRAM, "-m", model, "-u", parts.netloc, "-i", parts.scheme, "-b", "1"),
                *("--concurrency-range", str(concurrency), "-f", str(table)),
            ]
            figures: dict[str, float] = {}
            error = None
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
                if table.is_file():
                    figures = _read(table)
                else:
                    error = (done.stderr or done.stdout).strip()[-300:]
            except subprocess.TimeoutExpired:
                error = f"not finished after {SECONDS} s"
            records.append(PerfAnalyzerRecord(f"server {parts.scheme}", concurrency, **figures, error=error))
    return records


def _read(table: Path) -> dict[str, float]:
    """Return the figures of the last row of its CSV file, which has latencies in microseconds."""
    with table.open(encoding="utf-8", newline="") as stream:
        last = list(csv.DictReader(stream))[-1]
    latencies = {f"{name}_ms": float(last[f"{name} latency"]) / 1e3 for name in ("p50", "p90", "p95", "p99")}
    return {"images_per_second": float(last["Inferences/Second"]), **latencies}
