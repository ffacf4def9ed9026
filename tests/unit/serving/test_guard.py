from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shrinkserve.serving import guard

ORPHAN = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.exit(3)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def run(folder: Path, *program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", guard.__file__, str(os.getpid()), str(folder), *program],
        stdout=subprocess.PIPE,
        text=True,
    )


def gone(pid: int, seconds: float = 10) -> bool:
    return until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, seconds)


def until(happened: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(("program", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 128 + signal.SIGSEGV)])
def test_ends_as_the_program_ends_and_removes_its_folder(tmp_path: Path, program: str, code: int) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    assert run(folder, "/bin/sh", "-c", program).wait(timeout=20) == code
    assert not folder.exists()


def test_terminates_the_program_in_order(tmp_path: Path) -> None:
    process = run(tmp_path / "none", "/bin/sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=20) == 5
    process.stdout.close()


def test_ends_a_stubborn_program_at_once_when_asked(tmp_path: Path) -> None:
    process = run(tmp_path / "none", sys.executable, "-c", STUBBORN)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.send_signal(guard.NOW)
    assert process.wait(timeout=20) == 128 + signal.SIGKILL
    process.stdout.close()


def test_kills_what_the_program_leaves_behind(tmp_path: Path) -> None:
    process = run(tmp_path / "none", sys.executable, "-c", ORPHAN)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    assert process.wait(timeout=20) == 3
    assert not psutil.pid_exists(orphan)
    process.stdout.close()


def test_program_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys; "
            "subprocess.Popen([sys.executable, '-I', sys.argv[1], str(os.getpid()), sys.argv[2], '/bin/sh', '-c', "
            "'echo $$; exec sleep 600']).wait()",
            guard.__file__,
            str(tmp_path / "none"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    program = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(program)


def test_program_ends_when_the_guard_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path / "none", "/bin/sh", "-c", "echo $$; exec sleep 600")
    assert process.stdout is not None
    program = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(program)
