"""Processes of a server that die or stand still: found within seconds, named, and nothing stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from shrinkserve.errors import RequestError, ServerError
from shrinkserve.serving import config_text
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import CANDIDATE
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server import supervisor
from shrinkserve.serving.server.leftovers import remove_leftovers
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files during a test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def start(repository: Repository, tmp_path: Path, **more: object) -> TritonServer:
    return TritonServer(repository.root, ServerOptions(log_file=tmp_path / "log", models=["tiny"], **more))  # type: ignore[arg-type]


def processes(server: TritonServer) -> tuple[psutil.Process, psutil.Process]:
    """tritonserver, and the process of its model."""
    (triton,) = psutil.Process(server.pid).children()
    (stub,) = triton.children()
    return triton, stub


def shared_memory(process: psutil.Process) -> set[Path]:
    return set(map(Path, re.findall(r"/dev/shm/triton_\S+", Path(f"/proc/{process.pid}/maps").read_text())))


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_loss_of_a_model_process_ends_the_server_and_names_it(
    tiny_repository: Repository, tmp_path: Path, number: signal.Signals
) -> None:
    with start(tiny_repository, tmp_path) as server:
        _, stub = processes(server)
        time.sleep(1)  # names are read twice a second
        stub.send_signal(number)
        with pytest.raises(ServerError, match=rf"'tiny_0_0'.*{number.name}"):
            server.wait()


def test_stopped_tritonserver_is_ended(tiny_repository: Repository, tmp_path: Path) -> None:
    with start(tiny_repository, tmp_path) as server:
        triton, _ = processes(server)
        triton.suspend()
        with pytest.raises(ServerError, match=r"'tritonserver'.*SIGSTOP"):
            server.wait()


def test_stopped_supervisor_can_be_ended(tiny_repository: Repository, tmp_path: Path) -> None:
    with start(tiny_repository, tmp_path) as server:
        supervisor_process = psutil.Process(server.pid)
        supervisor_process.suspend()
    assert not supervisor_process.is_running()


def test_short_stop_of_a_model_process_is_no_loss(tiny_repository: Repository, tmp_path: Path) -> None:
    with start(tiny_repository, tmp_path) as server:
        triton, stub = processes(server)
        stub.suspend()
        time.sleep(1)
        stub.resume()
        time.sleep(2)
        assert triton.is_running()


def test_server_continues_when_a_model_is_unloaded(tiny_repository: Repository, tmp_path: Path) -> None:
    with start(tiny_repository, tmp_path) as server, Client(server.grpc_url) as client:
        for _ in range(3):
            client.unload("tiny")
            client.load("tiny")
        time.sleep(2)
        triton, _ = processes(server)
        assert triton.is_running()


def test_model_that_cannot_be_loaded_later_is_no_loss(tiny_repository: Repository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    options = ServerOptions(log_file=tmp_path / "log", models=["tiny"])
    with TritonServer(root, options) as server, Client(server.grpc_url) as client:
        (root / "wide/1/model.onnx").write_bytes(b"damaged")
        with pytest.raises(RequestError):
            client.load("wide")
        time.sleep(2)
        assert processes(server)


def test_loss_of_a_candidate_does_not_end_the_server(tiny_repository: Repository, tmp_path: Path) -> None:
    assert f"{CANDIDATE}_" == supervisor.CANDIDATE_PART
    name = f"tiny{CANDIDATE}"
    config = config_text.read_config(tiny_repository.root / "tiny/config.pbtxt")
    config.name = name
    files = {file: (tiny_repository.root / "tiny" / file).read_bytes() for file in ("1/model.onnx", "labels.txt")}
    with start(tiny_repository, tmp_path) as server, Client(server.grpc_url) as client:
        client.load(name, config, files)
        time.sleep(1)
        triton, *_ = psutil.Process(server.pid).children()
        (candidate,) = (stub for stub in triton.children() if f"{name}_0_0" in stub.cmdline())
        candidate.kill()
        time.sleep(3)
        assert len(triton.children()) == 2
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        client.unload(name)
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_model_process_that_cannot_start_is_noticed(
    tiny_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton itself would wait for 300 s."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # without a shell
    with pytest.raises(ServerError, match="process of a model ended"), start(tiny_repository, tmp_path):
        pass


@pytest.mark.parametrize(("limits", "works"), [("(64, 4096)", True), ("(256, 256)", True), ("(64, 64)", False)])
def test_server_raises_soft_limit_of_files_and_rejects_low_hard_limit(
    tiny_repository: Repository, tmp_path: Path, limits: str, works: bool
) -> None:
    """The soft limit is raised. With a low hard limit Triton would never accept a connection."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits})"
    script = f"{limit}{SERVES.replace('server.wait()', '')}"
    command = [sys.executable, "-c", script, str(tiny_repository.root), str(tmp_path / "log")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode == 0) is works
    assert works or "too few files may be open" in run.stderr


def test_server_outlives_the_thread_that_started_it(tiny_repository: Repository, tmp_path: Path) -> None:
    servers = []
    thread = threading.Thread(target=lambda: servers.append(start(tiny_repository, tmp_path).__enter__()))
    thread.start()
    thread.join()
    (server,) = servers
    try:
        time.sleep(1.5)
        assert processes(server)
    finally:
        server.stop()


def test_killed_supervisor_is_reported(tiny_repository: Repository, tmp_path: Path) -> None:
    with start(tiny_repository, tmp_path) as server:
        psutil.Process(server.pid).kill()
        with pytest.raises(ServerError, match="SIGKILL"):
            server.wait()


def test_shared_memory_goes_when_both_processes_are_killed(tiny_repository: Repository, tmp_path: Path) -> None:
    """The model's process is killed first, so the memory is mapped by no process when tritonserver dies."""
    with start(tiny_repository, tmp_path) as server:
        triton, stub = processes(server)
        shared = shared_memory(stub)
        stub.kill()
        time.sleep(0.3)
        triton.kill()
        with pytest.raises(ServerError):
            server.wait()
    assert shared
    assert not [path for path in shared if path.exists()]


SERVES = """
import sys; from pathlib import Path
from shrinkserve.serving.server.server import ServerOptions, TritonServer
with TritonServer(Path(sys.argv[1]), ServerOptions(models=["tiny"], log_file=Path(sys.argv[2]))) as server:
    print(server.pid, flush=True); server.wait()
"""


def test_start_removes_what_a_killed_group_left(tiny_repository: Repository, tmp_path: Path, temporary: Path) -> None:
    command = [sys.executable, "-c", SERVES, str(tiny_repository.root), str(tmp_path / "log")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    ) as run:
        assert run.stdout is not None
        supervisor = psutil.Process(int(run.stdout.readline()))
        group = [supervisor, *supervisor.children(recursive=True)]
        shared = shared_memory(group[-1])
        (folder,) = temporary.iterdir()
        remove_leftovers(temporary)
        assert folder.exists(), "its supervisor runs"
        for process in (psutil.Process(run.pid), *group):
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # so that none can clean up
        for process in (psutil.Process(run.pid), *group):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    until(lambda: not any(process.is_running() and process.status() != "zombie" for process in group))
    assert folder.exists()
    assert all(path.exists() for path in shared)
    with start(tiny_repository, tmp_path):
        pass
    assert list(temporary.iterdir()) == []
    assert not any(path.exists() for path in shared)
