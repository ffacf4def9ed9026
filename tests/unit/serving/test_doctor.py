from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shrinkserve.cli import main
from shrinkserve.errors import RequestError
from shrinkserve.serving import doctor
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer


def by_subject(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in findings}


def test_this_machine_can_serve() -> None:
    found = by_subject(list(doctor.examine_machine()))
    assert [finding for finding in found.values() if finding.level == "fault"] == []
    assert found["tritonserver"].what.startswith(("2.51.0 from PyPI", "/"))
    assert "CPU" in found["onnxruntime"].what
    assert platform.python_version() in found["machine"].what
    for name, package in (("openvino", "openvino"), ("dali", "nvidia-dali-cuda120")):
        version = metadata.version(package)
        assert (found[name].level, found[name].what) == ("ok", f"{package} {version}")
    assert found["tensorrt"].hint in {"", "pip install 'shrinkserve[tensorrt]'"}


def test_a_gpu_that_the_runtime_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 570.86.10, 8.9'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(doctor, "DRIVER", tmp_path)
    found = by_subject(list(doctor.examine_machine()))
    assert found["GPU"].what == "NVIDIA L4, 23034 MiB, 570.86.10, 8.9"
    if "onnxruntime" in found:  # the CPU's build
        assert found["onnxruntime"].level == "note"
        assert "shrinkserve[gpu]" in found["onnxruntime"].hint


def test_machine_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("PATH", "")
    found = by_subject(list(doctor.examine_machine()))["tritonserver"]
    assert found.level == "fault"
    assert "docker run" in found.hint


def test_taken_port_is_noted() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8001))
            holder.listen()
        except OSError:
            pytest.skip("another program holds the port already")
        found = by_subject(list(doctor.examine_machine()))["port 8001"]
    assert (found.level, found.hint) == ("note", "--grpc-port 0 lets another be chosen")


def test_repository_with_a_half_made_model(tiny_repository: Repository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    (root / "wide/1/model.onnx").unlink()
    found = by_subject(list(doctor.examine_repository(root)))
    assert found["model tiny"].level == "ok"
    assert found["model wide"].what == "half made, no 1/model.onnx"
    assert found["model wide"].hint == f"complete it with: shrinkserve export RUN --name wide --repository {root}"
    (missing,) = doctor.examine_repository(tmp_path / "none")
    assert missing.level == "fault"


@pytest.mark.parametrize(("token", "level", "what"), [(None, "note", "open to"), ("for-friends", "ok", "guarded")])
def test_server_and_what_it_exposes(
    tiny_repository: Repository, tmp_path: Path, token: str | None, level: str, what: str
) -> None:
    options = ServerOptions(models=["tiny"], token=token, log_file=tmp_path / "triton.log")
    with TritonServer(tiny_repository.root, options) as server:
        found = by_subject(list(doctor.examine_server(server.http_url)))
    assert "Triton 2.51.0" in found["server"].what
    assert (found["models"].level, found["models"].what) == ("ok", "tiny")
    for name in doctor.OPEN_APIS:
        assert (found[name].level, found[name].what[: len(what)]) == (level, what)


def test_no_server_and_no_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    (finding,) = doctor.examine_server(f"http://127.0.0.1:{port}")
    assert (finding.level, "refused" in finding.what) == ("fault", True)
    with pytest.raises(RequestError, match="expected http://HOST:PORT"):
        list(doctor.examine_server("ftp://somewhere"))


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_another_service_at_the_port(tiny_server: TritonServer, port: str) -> None:
    address = urlsplit(getattr(tiny_server, f"{port}_url")).netloc
    (finding,) = doctor.examine_server(f"http://{address}")
    assert finding.level == "fault"
    assert finding.what.startswith("no Triton answers (")
    assert finding.hint.endswith("or check the URL")


def test_command(tiny_repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--repository", str(tiny_repository.root)]) == 0
    assert {"level", "subject", "what", "do"} == set(json.loads(capsys.readouterr().out)[0])
    assert main(["doctor", "--repository", str(tmp_path)]) == 1
    assert f"fault {tmp_path}: no model in this repository; make one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "level"),
    [("2.51.0", "note"), ("2.60.0", "fault"), ("2.70.1", "fault"), ("2.71.0", "ok"), ("3.0.0", "ok"), ("x", "note")],
)
def test_server_older_than_the_floor_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, version: str, level: doctor.Level
) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda *_: (200, json.dumps({"version": version})))
    found = by_subject(list(doctor.examine_server("http://127.0.0.1:1")))["server"]
    assert found.level == level
    assert ("https://www.nvidia.com/en-us/security/" in found.what) == (level == "fault")
    assert ("loopback" in found.hint) == (version == "2.51.0")


@pytest.mark.parametrize(
    ("status", "level", "what"),
    [
        (200, "note", "open"),
        (403, "ok", "guarded"),
        *((n, "note", "could not be asked") for n in (0, 404, 429, 500, 503)),
    ],
)
def test_only_403_is_guarded(monkeypatch: pytest.MonkeyPatch, status: int, level: str, what: str) -> None:
    def ask(_url: str, _method: str, path: str) -> tuple[int, str]:
        return (200, json.dumps({"version": "2.71.0"})) if path == "/v2" else (status, "timed out")

    monkeypatch.setattr(doctor, "_ask", ask)
    found = by_subject(list(doctor.examine_server("http://127.0.0.1:1")))
    for name in doctor.OPEN_APIS:
        assert found[name].level == level
        assert found[name].what.startswith(what)


@pytest.mark.parametrize("guarded", [False, True])
def test_grpc_is_asked_as_well(tiny_repository: Repository, tmp_path: Path, guarded: bool) -> None:
    groups = "model-repository,shared-memory,trace,logging:key=value1234"
    arguments = [f"--http-restricted-api={groups}", *([f"--grpc-restricted-protocol={groups}"] if guarded else [])]
    options = ServerOptions(models=["tiny"], log_file=tmp_path / "triton.log", arguments=arguments)
    with TritonServer(tiny_repository.root, options) as server:
        found = by_subject(list(doctor.examine_server(server.http_url, server.grpc_url)))
    for name in doctor.OPEN_APIS:
        assert found[name].level == "ok"
        assert found[f"{name} by gRPC"].level == ("ok" if guarded else "note")
        assert found[f"{name} by gRPC"].what.startswith("guarded" if guarded else "open")
    unreachable = list(doctor._grpc_guards("grpc://127.0.0.1:1"))
    assert {(one.level, one.what[:18]) for one in unreachable} == {("note", "could not be asked")}
