"""Tests of the programs that `make gpu` runs: nothing that was measured is lost."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

BENCH = Path(__file__).parents[2] / "bench"
HANGS = """
import json, subprocess, sys, time
from pathlib import Path
out, name = Path(sys.argv[2]), sys.argv[-1]
(out / f"{name}.json").write_text(json.dumps({"rows": [{"loader": "portable"}], "failures": []}))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(out / "child").write_text(str(child.pid))
time.sleep(600)
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


def test_stopped_part_keeps_what_it_has_measured(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "hangs.py"))
    limit = 5.0
    while not (tmp_path / "child").exists():  # a busy machine may need longer to start two processes
        section = gpu.run_part("loader", ["--out", str(tmp_path)], tmp_path, limit)
        limit *= 2
    assert section["rows"] == [{"loader": "portable"}]
    assert [failure.split()[0] for failure in section["failures"]] == ["stopped"]
    assert not (tmp_path / "loader.json").exists()
    child = int((tmp_path / "child").read_text())
    for _ in range(300):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the part's child is still running")


def test_part_that_crashes_is_a_failure(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashes.py").write_text("import os; os._exit(7)")
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "crashes.py"))
    section = gpu.run_part("loader", ["--out", str(tmp_path)], tmp_path, 60.0)
    assert section == {"rows": [], "failures": ["ended with exit code 7"]}


LINES = [
    "tests/gpu/test_dali_gpu.py::test_a PASSED [ 33%]",
    "tests/gpu/test_dali_gpu.py::test_b FAILED [ 66%]",
    "tests/gpu/test_engines.py::test_c SKIPPED (TensorRT is not installed) [100%]",
]


def test_results_of_tests_that_ended_are_known_before_the_last(gpu: ModuleType) -> None:
    found = gpu.tests_section(LINES, smoke=False, complete=False)
    assert found["result"] == "1 passed of 3, then stopped"
    assert found["failures"] == [LINES[1]]
    assert LINES[1] in found["output"]
    assert gpu.tests_section(LINES[:1], smoke=False, complete=False)["failures"] == []


def test_complete_results_have_the_reasons(gpu: ModuleType) -> None:
    failed = "FAILED tests/gpu/test_dali_gpu.py::test_b - RuntimeError"
    ends = ["E   RuntimeError: no decoder", failed, "1 failed, 1 passed"]
    found = gpu.tests_section([*LINES, *ends], smoke=False, complete=True)
    assert found["result"] == "1 failed, 1 passed"
    assert found["failures"] == [failed]
    assert "no decoder" in found["output"]


def test_limits_of_the_parts_fit_into_twenty_minutes(gpu: ModuleType) -> None:
    assert sum(gpu.LIMITS.values()) <= 20 * 60


def test_parts_of_wheels_are_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    wheels = importlib.import_module("gpu_wheels")
    content = os.urandom(1000)
    for number in range(4):
        (tmp_path / f"dali-2.4-py3-none-any.whl.{number:02}").write_bytes(content[250 * number : 250 * (number + 1)])
    (tmp_path / "other-1.0-py3-none-any.whl").touch()
    target = tmp_path / "whole"
    target.mkdir()
    (whole,) = wheels.joined(tmp_path, target)
    assert whole.name == "dali-2.4-py3-none-any.whl"
    assert whole.read_bytes() == content


def test_page_of_partial_sections_is_written(gpu: ModuleType, tmp_path: Path) -> None:
    sections = {"loader": {"rows": [{"loader": "dali", "images_per_second": 5}], "failures": ["stopped after 3 s"]}}
    record = gpu.write(tmp_path, sections, 3.0)
    assert record["failures"] == ["loader: stopped after 3 s"]
    assert "| dali | 5 |" in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text())["sections"] == sections
