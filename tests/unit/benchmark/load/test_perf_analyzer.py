"""A script writes the file of a real run, because perf_analyzer needs glibc 2.38.

`tests/integration/test_bench_server.py` runs the real program where it is installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shrinkserve.benchmark.load import perf_analyzer
from shrinkserve.benchmark.load.perf_analyzer import PerfAnalyzerRecord

COLUMNS = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)
PROGRAM = f"""#!/bin/sh
while [ "$1" != "-f" ]; do shift; done
printf '%s\\n4,812.5,10,200,30,20,4000,15,2,4512,5120,5810,9024\\n' '{COLUMNS}' > "$2"
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = folder / "perf_analyzer"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(shutil.which('sh') or '/bin/sh').parent}")


def test_measure_returns_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, PROGRAM)
    assert perf_analyzer.program() == str(tmp_path / "perf_analyzer")
    (row,) = perf_analyzer.measure("grpc://127.0.0.1:8001", "digits", [4])
    assert row == PerfAnalyzerRecord("server grpc", 4, 812.5, 4.512, 5.12, 5.81, 9.024)


def test_failed_run_has_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "#!/bin/sh\necho 'failed to get model metadata' >&2\nexit 99\n")
    (row,) = perf_analyzer.measure("http://127.0.0.1:8000", "digits", [1])
    assert row == PerfAnalyzerRecord("server http", 1, error="failed to get model metadata")


def test_path_is_none_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert perf_analyzer.program() is None
