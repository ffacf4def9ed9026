from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shrinkserve.serving.server import supervisor

ORPHAN = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.exit(3)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def run(folder: Path, *program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", supervisor.__file__, str(os.getpid()), str(folder), "0", *program],
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
def test_exit_code_is_the_programs_and_its_folder_is_removed(tmp_path: Path, program: str, code: int) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    assert run(folder, "/bin/sh", "-c", program).wait(timeout=60) == code
    assert not folder.exists()


def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    process = run(tmp_path / "none", "/bin/sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=60) == 5
    process.stdout.close()


def test_sigusr1_kills_a_program_that_ignores_sigterm(tmp_path: Path) -> None:
    process = run(tmp_path / "none", sys.executable, "-c", STUBBORN)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.send_signal(supervisor.NOW)
    assert process.wait(timeout=60) == 128 + signal.SIGKILL
    process.stdout.close()


def test_supervisor_kills_orphans(tmp_path: Path) -> None:
    process = run(tmp_path / "none", sys.executable, "-c", ORPHAN)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    assert process.wait(timeout=60) == 3
    assert not psutil.pid_exists(orphan)
    process.stdout.close()


def test_shared_memory_of_the_folders_server_is_removed(tmp_path: Path) -> None:
    folder, other = (tmp_path / f"shrinkserve-{uuid.uuid4().hex}{part}" for part in ("", "*"))
    mine, foreign = (supervisor.REGIONS / f"{supervisor.region_prefix(path)}1" for path in (folder, other))
    foreign.write_text("shared")
    try:
        run(folder, "/bin/sh", "-c", f"echo > '{mine}'; kill -KILL $$").wait(timeout=60)
        assert not mine.exists()
        assert foreign.exists()
        run(other, "/bin/sh", "-c", f"echo > '{mine}'").wait(timeout=60)
        assert mine.exists()
        assert not foreign.exists()
    finally:
        mine.unlink(missing_ok=True)
        foreign.unlink(missing_ok=True)


MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
print("up", flush=True)
input()
"""


def test_sweep_removes_empty_folders_that_no_backend_needs(tmp_path: Path) -> None:
    empty, full, other = (tmp_path / name for name in ("python_env_aBcDeF", "python_env_123456", "else"))
    for folder in (empty, full, other):
        folder.mkdir()
    (full / "environment").write_text("")
    library = tmp_path / f"lib{uuid.uuid4().hex}.so"
    library.write_text("mapped")
    with subprocess.Popen(
        [sys.executable, "-c", MAPS, str(library)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as backend:
        assert backend.stdout is not None
        backend.stdout.readline()
        supervisor.sweep(tmp_path, library.name)
        assert empty.exists(), "a process that has mapped the library runs"
        backend.communicate(b"\n")
    supervisor.sweep(tmp_path, library.name)
    assert not empty.exists()
    assert full.exists()
    assert other.exists()


def test_program_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys; "
            "subprocess.Popen([sys.executable, '-I', sys.argv[1], str(os.getpid()), sys.argv[2], '0', '/bin/sh', '-c', "
            "'echo $$; exec sleep 600']).wait()",
            supervisor.__file__,
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


def test_program_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path / "none", "/bin/sh", "-c", "echo $$; exec sleep 600")
    assert process.stdout is not None
    program = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(program)
