"""`shrinkserve quickstart`: the whole path, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PATIENCE = 60.0


def processes_of(folder: Path) -> list[str]:
    """Command lines of live processes that name the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(shlex.join(words))
    return found


def wait_for_none(folder: Path) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_the_whole_path_and_each_command_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    command = [sys.executable, "-m", "shrinkserve", "quickstart", str(folder)]
    quick = ["--recipe", "smoke", "--min-top1", "0.05", "--window", "0.2"]
    done = subprocess.run([*command, *quick], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    shown = [shlex.split(line)[2] for line in done.stdout.splitlines() if line.startswith("$ shrinkserve ")]
    assert shown == ["data", "train", "export", "serve", "predict", "bench"]
    record = json.loads((folder / "report" / "bench.json").read_text())
    assert record["misses"] == []
    assert {s["name"] for s in record["stages"]} >= {"checkpoint ema", "server http", "server grpc"}
    for what in ("data", "runs/smoke", "model_repository", "report"):
        assert str(folder / what) in done.stdout
    assert " ".join(done.stdout.split()).count("answer as the checkpoint does") == 1
    assert wait_for_none(folder) == []


def test_a_stage_that_fails_ends_it_with_that_stages_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shrinkserve", "quickstart", str(tmp_path / "made"), "--recipe", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "absent: no such recipe" in first
    assert second == "error: quickstart: `shrinkserve train` ended with exit code 2; its own message is above"


def test_no_server_outlives_a_quickstart_that_is_killed(smoke_repository: Path, tmp_path: Path) -> None:
    """SIGKILL cannot be handled: the server has to notice by itself."""
    program = f"""
import time
from shrinkserve.quickstart import Stages, Summary
stages = Stages(Summary(), lambda line: print(line, flush=True))
with stages.serve("--repository", {str(smoke_repository)!r}, "--log-file", {str(tmp_path / "log")!r}):
    print("ready", flush=True)
    time.sleep(600)
"""
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [line.strip() for line in iter(process.stdout.readline, "ready\n")]
            assert any(line.startswith("grpc://127.0.0.1:") for line in lines)
            assert any("--load-model=smoke_classifier" in line for line in processes_of(smoke_repository))
            process.send_signal(number)
            process.wait(PATIENCE)
        assert [line for line in wait_for_none(smoke_repository) if "tritonserver" in line] == []
