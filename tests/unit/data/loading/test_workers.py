from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.data.loading.workers import in_processes
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels

SHAPE = (2, 3)


def fill(number: int, buffer: Pixels) -> int:
    buffer[:] = number
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 3, 9])
def test_in_processes_keeps_the_order(workers: int) -> None:
    results = list(in_processes(fill, range(2, 9), SHAPE, workers))
    assert [int(images[0, 0]) for images, _ in results] == list(range(2, 9))
    assert len({pid for _, pid in results}) == min(workers, 7)
    assert all(not Path(f"/proc/{pid}").exists() for _, pid in results)


def fails(number: int, _: Pixels) -> int:
    return 1 // (3 - number)


def runs_out_of_memory(_: int, __: Pixels) -> int:
    raise MemoryError


def is_killed(number: int, _: Pixels) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exits(number: int, _: Pixels) -> int:
    if number == 3:
        os._exit(7)
    return number


def stops(number: int, _: Pixels) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (fails, "ZeroDivisionError.*test_workers.py"),
        (runs_out_of_memory, "MemoryError.*memory"),
        (is_killed, "killed by SIGKILL.*memory"),
        (exits, "exit code 7"),
        (stops, "no batch for 2 seconds"),
    ],
)
def test_in_processes_raises_when_a_worker_ends(load, reason: str) -> None:  # type: ignore[no-untyped-def]
    import multiprocessing

    with pytest.raises(DataError, match=reason):
        list(in_processes(load, range(8), SHAPE, 2, watchdog=2))
    assert not multiprocessing.active_children()


PROGRAM = """
import os, signal, sys, threading
from shrinkserve.config import parse_recipe
from shrinkserve.data import open_dataset, train_loader
data = {"loader": "portable", "workers": 2}
raw = {"name": "t", "model": {"input_size": 32}, "train": {"batch_size": 8}, "data": data}
loader = train_loader(open_dataset(sys.argv[1], "train"), parse_recipe(raw))
batches = loader.epoch(0)
next(batches)
import multiprocessing
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "kill amid a batch":
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
    while True:
        next(batches)
if sys.argv[2] == "raise":
    raise SystemExit(3)
if sys.argv[2] == "terminate":
    os.kill(os.getpid(), signal.SIGTERM)
batches.close()
assert not multiprocessing.active_children()
"""


@pytest.mark.parametrize("end", ["close", "raise", "terminate", "kill", "kill amid a batch"])
def test_no_worker_outlives_the_trainer(digits: Path, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(digits), end], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == {"close": 0, "raise": 3, "terminate": -15}.get(end, -9), done.stderr
    assert not done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a mount namespace")
def test_training_batches_need_no_shared_memory_device(digits: Path) -> None:
    program = PROGRAM.replace("batches.close()", "print(sum(len(batch) for batch in batches)); batches.close()")
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", program, str(digits), "all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 1432 - 8


SUSPENDED = """
import time
from shrinkserve.data.loading.workers import in_processes
def load(number, buffer):
    print("loading", flush=True)
    began = time.process_time()
    while time.process_time() < began + 0.5:
        pass
print(len(list(in_processes(load, range(1), (1,), 1, watchdog=3.0))))
"""


def test_time_of_suspended_processes_is_not_counted() -> None:
    command = [sys.executable, "-c", SUSPENDED]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=60) == ("1\n", "")


def test_in_processes_refuses_when_no_process_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(DataError, match="cannot start 2 data loader processes"):
        next(in_processes(fill, range(4), SHAPE, 2))


def test_buffers_are_copied() -> None:
    first, second = (images for images, _ in in_processes(fill, range(2), SHAPE, 1))
    assert not np.array_equal(first, second)
