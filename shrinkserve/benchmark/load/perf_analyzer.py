"""The Triton project's own load generator beside ours, where it is on PATH."""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROGRAM = "perf_analyzer"
SECONDS = 300
"""How long one of its runs may take."""


def path() -> str | None:
    """Where the program is; None when it is not on PATH."""
    return shutil.which(PROGRAM)


def measure(url: str, model: str, concurrencies: Sequence[int]) -> list[dict[str, Any]]:
    """Closed loops of `perf_analyzer`; one that fails is a row with its error, as it is an aside.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT``.
        model: the model's name; its input is filled with random pixels.
        concurrencies: one run each.

    Returns:
        A row a run: ``target``, ``concurrency``, ``images_per_second``, ``p50_ms`` .. ``p99_ms``, or ``error``.
    """
    parts = urlsplit(url)
    rows = []
    for concurrency in concurrencies:
        with tempfile.TemporaryDirectory(prefix="shrinkserve-perf-") as folder:
            table = Path(folder) / "latency.csv"
            command = [
                *(PROGRAM, "-m", model, "-u", parts.netloc, "-i", parts.scheme, "-b", "1"),
                *("--concurrency-range", str(concurrency), "-f", str(table)),
            ]
            row: dict[str, Any] = {"target": f"server {parts.scheme}", "concurrency": concurrency}
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
                row |= _read(table) if table.is_file() else {"error": (done.stderr or done.stdout).strip()[-300:]}
            except subprocess.TimeoutExpired:
                row["error"] = f"not finished after {SECONDS} s"
            rows.append(row)
    return rows


def _read(table: Path) -> dict[str, float]:
    """The last row of its CSV: latencies are in microseconds there."""
    with table.open(encoding="utf-8", newline="") as stream:
        last = list(csv.DictReader(stream))[-1]
    latencies = {f"{name}_ms": float(last[f"{name} latency"]) / 1e3 for name in ("p50", "p90", "p95", "p99")}
    return {"images_per_second": float(last["Inferences/Second"]), **latencies}
