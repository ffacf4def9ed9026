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
import pytest

PATIENCE = 60.0


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of running processes that contain the path of the folder."""
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


def test_quickstart_shows_and_runs_every_stage(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    command = [sys.executable, "-m", "shrinkserve", "quickstart", str(folder)]
    quick = ["--recipe", "smoke", "--min-top1", "0.05", "--window", "0.1"]
    done = subprocess.run([*command, *quick], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    shown = [shlex.split(line)[2] for line in done.stdout.splitlines() if line.startswith("$ shrinkserve ")]
    assert shown == ["data", "train", "export", "serve", "predict", "bench"]
    record = json.loads((folder / "report" / "bench.json").read_text())
    assert record["misses"] == []
    assert {s["name"] for s in record["stages"]} >= {"checkpoint ema", "server http", "server grpc"}
    for what in ("data", "runs/smoke", "model_repository", "report"):
        assert str(folder / what) in done.stdout
    assert " ".join(done.stdout.split()).count("the same classes as the checkpoint") == 1
    assert wait_for_none(folder) == []


def test_quickstart_ends_with_message_of_failed_stage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shrinkserve", "quickstart", str(tmp_path / "made"), "--recipe", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("error: absent: ")
    assert "`shrinkserve train` ended with exit code 2" in second


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_server_ends_when_quickstart_is_killed(smoke_repository: Path, tmp_path: Path, number: int) -> None:
    program = f"""
import time
from pathlib import Path
from shrinkserve.api.quickstart import Stages
with Stages(print).serve(Path({str(smoke_repository)!r}), "smoke", Path({str(tmp_path / "log")!r})) as server:
    print("ready", server.pid, server.grpc_url, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            _, pid, url = next(line for line in process.stdout if line.startswith("ready ")).split()
            assert url.startswith("grpc://127.0.0.1:")
            started = psutil.Process(int(pid))
            processes = [started, *started.children(recursive=True)]
            assert any(one.name() == "tritonserver" for one in processes)
            process.send_signal(number)
            process.wait(PATIENCE)
        finally:
            process.kill()
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []
