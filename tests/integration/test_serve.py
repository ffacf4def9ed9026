"""Run `shrinkserve serve` as a process and end it in every way."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shrinkserve.cli import main

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(smoke_repository: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start the command on free ports."""
    started = []

    def start(*more: str) -> subprocess.Popen[str]:
        ports = [word for service in ("http", "grpc", "metrics") for word in (f"--{service}-port", "0")]
        place = ["--repository", str(smoke_repository), "--log-file", str(tmp_path / "triton.log")]
        process = subprocess.Popen(
            [sys.executable, "-m", "shrinkserve", "serve", *place, *ports, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lines_when_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(4)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes below the command: supervisor, tritonserver, and one for each model instance."""
    below = psutil.Process(process.pid).children(recursive=True)
    names = {member.name() for member in below}
    assert {"tritonserver", "triton_python_b"} <= {name[:15] for name in names}
    return below


def all_end(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_serve_prints_urls_when_they_respond(serve: Serve) -> None:
    first, http, grpc, metrics = lines_when_ready(serve())
    assert first.startswith("serving smoke; Ctrl-C stops it; log: ")
    assert (http.split(":")[0], grpc.split(":")[0], metrics.endswith("/metrics")) == ("http", "grpc", True)
    for url in (f"{http}/v2/models/smoke_classifier/ready", metrics):
        assert urllib.request.urlopen(url, timeout=60).status == 200
    host, port = grpc.removeprefix("grpc://").split(":")
    socket.create_connection((host, int(port)), timeout=10).close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_stops_on_signals_and_leaves_no_process(serve: Serve, number: signal.Signals) -> None:
    process = serve()
    lines_when_ready(process)
    below = family(process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "stopped\n", "")
    assert all_end(below, 0)


def test_serve_leaves_no_process_when_it_is_killed(serve: Serve) -> None:
    process = serve()
    lines_when_ready(process)
    below = family(process)
    process.kill()
    assert all_end(below, 20)


def test_serve_reports_server_that_dies(serve: Serve) -> None:
    process = serve()
    lines_when_ready(process)
    below = family(process)
    next(member for member in below if member.name() == "tritonserver").kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "SIGKILL" in errors
    assert all_end(below, 0)


def test_serve_reports_model_process_that_dies(serve: Serve) -> None:
    process = serve()
    lines_when_ready(process)
    below = family(process)
    time.sleep(1)  # names of processes are read twice a second
    next(member for member in below if member.name().startswith("triton_python")).kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.search(r"process 'smoke_\w+' ended \(SIGKILL", errors)  # of the classifier or of the decoder
    assert all_end(below, 0)


def test_json_describes_the_server(serve: Serve, smoke_repository: Path) -> None:
    process = serve("--json")
    assert process.stdout is not None
    described = json.loads(process.stdout.readline())
    assert described["models"] == ["smoke"]
    assert Path(described["log"]).is_file()
    assert urllib.request.urlopen(f"{described['http']}/v2/health/ready", timeout=60).status == 200


def test_serve_works_in_environment_with_non_ascii_path(smoke_repository: Path, tmp_path: Path) -> None:
    environment = tmp_path / "v\u00fc"
    venv.create(environment, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "all.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    ports = [word for service in ("http", "grpc", "metrics") for word in (f"--{service}-port", "0")]
    command = [str(environment / "bin/python"), "-m", "shrinkserve", "serve", "--json", *ports]
    command += ["--repository", str(smoke_repository), "--log-file", str(tmp_path / "triton.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    described = process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert json.loads(described)["models"] == ["smoke"], errors


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a command line fails."""
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_serve_reports_port_that_is_taken(smoke_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        error = fails(capsys, "serve", "--repository", str(smoke_repository), "--grpc-port", port, "--http-port", "0")
    assert f"127.0.0.1:{port} cannot be bound for grpc" in error


def test_serve_rejects_one_port_for_two_services(smoke_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
    ports = ("--http-port", port, "--grpc-port", port, "--metrics-port", "0")
    error = fails(capsys, "serve", "--repository", str(smoke_repository), *ports)
    assert f"{port} is given twice" in error


def test_serve_rejects_missing_and_empty_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such model repository" in fails(capsys, "serve", "--repository", str(tmp_path / "none"))
    assert "no model in this repository" in fails(capsys, "serve", "--repository", str(tmp_path))


def test_serve_rejects_unknown_model_and_other_addresses(
    smoke_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("serve", "--repository", str(smoke_repository))
    assert "expected smoke, found other" in fails(capsys, *place, "--model", "other")
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    assert "--insecure" in fails(capsys, *place, *ports, "--host", "0.0.0.0")


def test_serve_reports_model_that_does_not_load(
    smoke_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "models"
    shutil.copytree(smoke_repository, broken)
    (broken / "smoke_classifier/1/model.onnx").write_bytes(b"")
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    log = ("--log-file", str(tmp_path / "triton.log"))
    error = fails(capsys, "serve", "--repository", str(broken), *ports, *log)
    assert "model 'smoke_classifier' cannot be loaded" in error


def test_serve_reports_log_that_cannot_be_written(smoke_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    log = ("--log-file", "/proc/none/triton.log")
    assert "log cannot be written" in fails(capsys, "serve", "--repository", str(smoke_repository), *ports, *log)
