"""Programs of `make bench` in their quick variants. Their figures have no meaning."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SPEC = importlib.util.spec_from_file_location("bench_run", BENCH / "run.py")
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)


SLOW = {"distillation", "loader", "operators", "soak"}
"""Programs that only `make test-slow` runs. Other tests cover what they measure."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in run.PROGRAMS]
)
def test_quick_run_succeeds_and_is_in_the_report(name: str, tmp_path: Path) -> None:
    command = [sys.executable, BENCH / "run.py", "--quick", "--only", name, "--results", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["rows"]
    assert f"$ {result['command']}\n" in done.stdout
    report = (tmp_path / "REPORT.md").read_text()
    for words in (f"## {result['title']}", result["date"], result["command"], result["environment"]["cpu"]):
        assert words in report
    assert report.count("\n| ") >= 2 + len(result["rows"])


def test_report_has_every_result_file(tmp_path: Path) -> None:
    """Results of earlier runs on other machines are in the report. Rows with other columns have a separate table."""
    versions = {"python": "3.11.7"}
    environment = {"cpu": "Abacus 3", "cores_usable": 2, "memory_gib": 1.0, "gpus": [], "versions": versions}
    rows = [
        {"what": "a|b", "images_per_second": 12345.6, "valid": True, "reasons": []},
        {"what": "c", "images_per_second": 0.01234, "valid": False, "reasons": ["unstable"]},
        {"what": "e", "images_per_second": 5.0},
        {"who": "d", "flips": None},
    ]
    result = {"title": "T", "date": "2020", "command": "python x", "environment": environment, "rows": rows}
    result["notes"] = ["n"]
    (tmp_path / "t.json").write_text(json.dumps(result))
    command = [sys.executable, str(BENCH / "run.py"), "--report-only", "--results", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "REPORT.md").read_text().splitlines()[4:] == [
        "* T", "",
        "## T", "", "2020, Abacus 3, 2 cores, 1 GiB, no GPU, python 3.11.7", "", "    python x", "",
        "| what | images per second | valid |", "| --- | ---: | ---: |",
        "| a\\|b | 12,346 | yes |", "| c | 0.0123 | no |", "| e | 5 |  |", "",
        "| who | flips |", "| --- | ---: |", "| d |  |", "", "* n",
    ]  # fmt: skip


def test_every_committed_result_has_its_machine() -> None:
    results = sorted((BENCH / "results").glob("*.json"))
    assert results
    for path in results:
        result = json.loads(path.read_text())
        assert {"title", "date", "command", "environment", "rows"} <= result.keys(), path.name
        assert {"cpu", "cores_usable", "versions"} <= result["environment"].keys(), path.name
