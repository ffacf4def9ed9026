from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

import shrinkserve
from shrinkserve.cli import main
from shrinkserve.errors import ConfigError
from shrinkserve.serving.doctor import Finding, Level, check_machine, check_repository, check_server, running
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server import pip_server
from shrinkserve.serving.server.server import ServerOptions, TritonServer


def by_subject(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_this_machine_can_serve() -> None:
    found = by_subject(check_machine())
    assert [finding for finding in found.values() if finding.level == "error"] == []
    assert found["tritonserver"].what.startswith(("2.51.0 from PyPI", "/"))
    assert "CPU" in found["onnxruntime"].what
    assert platform.python_version() in found["machine"].what
    for name, package in (("openvino", "openvino"), ("dali", "nvidia-dali-cuda120")):
        version = metadata.version(package)
        assert (found[name].level, found[name].what) == ("ok", f"{package} {version}")
    assert found["tensorrt"].hint in {"", "pip install 'shrinkserve[tensorrt]'"}


def test_gpu_that_the_runtime_does_not_use_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 570.86.10, 8.9'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(pip_server, "GPU_DEVICE", tmp_path)
    found = by_subject(check_machine())
    assert found["GPU"].what == "NVIDIA L4, 23034 MiB, 570.86.10, 8.9"
    if "onnxruntime" in found:  # the CPU's build
        assert found["onnxruntime"].level == "note"
        assert "container" in found["onnxruntime"].hint


def test_machine_without_a_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("PATH", "")
    found = by_subject(check_machine())["tritonserver"]
    assert found.level == "error"
    assert "docker run" in found.hint


def test_cache_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert not pip_server.cached()
    assert by_subject(check_machine())["tritonserver"].level == "error"


def test_port_in_use_is_noted() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8001))
            holder.listen()
        except OSError:
            pytest.skip("another program uses the port")
        found = by_subject(check_machine())["port 8001"]
    assert found.level == "note"
    assert found.hint.startswith("--grpc-port 0 ")


def test_check_repository_names_incomplete_model_and_the_remedy(tiny_repository: Repository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    (root / "wide/1/model.onnx").unlink()
    found = by_subject(check_repository(root))
    assert found["model tiny"].level == "ok"
    assert found["model wide"].what == "incomplete: 1/model.onnx is missing"
    assert found["model wide"].hint == f"run: shrinkserve export RUN --name wide --repository {root}"
    (missing,) = check_repository(tmp_path / "none")
    assert missing.level == "error"


def test_labels_with_windows_line_ends_are_an_error(tiny_repository: Repository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    path = root / "tiny/labels.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = by_subject(check_repository(root))
    assert found["labels of tiny"].level == "error"
    assert "labels of wide" not in found


def test_foreign_model_without_a_backend_is_an_error(tiny_repository: Repository, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))
    (root / "other/1").mkdir(parents=True)
    (root / "other/1/model.pt").touch()
    (root / "other/config.pbtxt").write_text('name: "other" backend: "pytorch" max_batch_size: 4')
    found = by_subject(check_repository(root))
    assert (found["model other"].level, found["model tiny"].level) == ("error", "ok")
    assert found["code of other"].level == "note"


@pytest.mark.parametrize(("token", "level", "what"), [(None, "note", "open to"), ("for-friends", "ok", "guarded")])
def test_check_server_reports_open_apis(
    tiny_repository: Repository, tmp_path: Path, token: str | None, level: str, what: str
) -> None:
    options = ServerOptions(models=["tiny"], token=token, log_file=tmp_path / "triton.log")
    with TritonServer(tiny_repository.root, options) as server:
        found = by_subject(check_server(server.http_url))
    assert "Triton 2.51.0" in found["server"].what
    assert (found["models"].level, found["models"].what) == ("ok", "tiny")
    for name in running.APIS:
        assert (found[name].level, found[name].what[: len(what)]) == (level, what)


def test_model_whose_process_died_is_an_error(tiny_repository: Repository, tmp_path: Path) -> None:
    """Triton's own health checks stay green. The supervisor is stopped, as it would end the server."""
    options = ServerOptions(log_file=tmp_path / "triton.log", models=["tiny"])
    with TritonServer(tiny_repository.root, options) as server:
        assert "model tiny" not in by_subject(check_server(server.http_url))
        supervisor = psutil.Process(server.pid)
        supervisor.suspend()
        try:
            supervisor.children()[0].children()[0].send_signal(signal.SIGKILL)
            found = by_subject(check_server(server.http_url))
        finally:
            supervisor.resume()
    assert found["model tiny"].level == "error"
    assert "readiness" not in found


def test_proxy_of_the_environment_is_not_used(tiny_server: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    found = by_subject(check_server(tiny_server.http_url, tiny_server.grpc_url))
    assert found["models"].level == "ok"
    assert found["logging by gRPC"].what.startswith("open")


def test_check_server_reports_closed_port_and_rejects_other_urls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    (finding,) = check_server(f"http://127.0.0.1:{port}")
    assert (finding.level, "refused" in finding.what) == ("error", True)
    for url in ("ftp://somewhere", "http://somewhere", "http://somewhere:x", "http://user:SECRET@127.0.0.1:8000"):
        with pytest.raises(ConfigError, match="server URL") as caught:
            list(check_server(url))
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="grpc://HOST:PORT"):
        list(running._check_grpc("http://127.0.0.1:8000"))


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_check_server_reports_another_service_at_the_port(tiny_server: TritonServer, port: str) -> None:
    address = urlsplit(getattr(tiny_server, f"{port}_url")).netloc
    (finding,) = check_server(f"http://{address}")
    assert finding.level == "error"
    assert "check the URL" in finding.hint


def test_command_prints_findings_and_fails_on_an_error(
    tiny_repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", "--repository", str(tiny_repository.root)]) == 0
    assert {"level", "subject", "what", "hint"} == set(json.loads(capsys.readouterr().out)[0])
    assert main(["doctor", "--repository", str(tmp_path)]) == 1
    assert re.search(rf"error +{tmp_path}: no model", capsys.readouterr().out)


def test_grpc_url_alone_is_an_error() -> None:
    with pytest.raises(ConfigError, match="grpc_url: expected url"):
        shrinkserve.doctor(grpc_url="grpc://127.0.0.1:8001")


def test_function_does_what_the_command_does(tmp_path: Path) -> None:
    assert "doctor" in shrinkserve.__all__
    findings = shrinkserve.doctor(repository=str(tmp_path))
    assert [finding.subject for finding in findings if finding.level == "error"] == [str(tmp_path)]


@pytest.mark.parametrize(
    ("version", "level"),
    [("2.51.0", "note"), ("2.60.0", "error"), ("2.70.1", "error"), ("2.71.0", "ok"), ("3.0.0", "ok"), ("x", "note")],
)
def test_server_older_than_the_floor_is_an_error(version: str, level: Level) -> None:
    finding = running._release(version)
    assert finding.level == level
    assert ("https://www.nvidia.com/en-us/security/" in finding.what) == (level == "error")
    assert ("loopback" in finding.hint) == (version == "2.51.0")
    assert ("26.07-py3" in finding.what) == (version == "2.71.0")


class Fake(BaseHTTPRequestHandler):
    """A server that responds to everything but its metadata with one status."""

    status = 200

    def do_GET(self) -> None:
        body = b'{"version": "2.71.0"}' if self.path == "/v2" else b"{}"
        self.send_response(200 if self.path == "/v2" else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "level", "what"),
    [(200, "note", "open"), (403, "ok", "guarded"), *((n, "note", "could not be") for n in (404, 429, 500, 503))],
)
def test_check_server_takes_only_403_as_guarded(
    monkeypatch: pytest.MonkeyPatch, status: int, level: str, what: str
) -> None:
    monkeypatch.setattr(Fake, "status", status)
    with ThreadingHTTPServer(("127.0.0.1", 0), Fake) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        found = by_subject(check_server(f"http://127.0.0.1:{fake.server_port}"))
        fake.shutdown()
    for name in running.APIS:
        assert found[name].level == level
        assert found[name].what.startswith(what)


class Proxied(Fake):
    """A server behind a proxy that serves it under a path."""

    def do_GET(self) -> None:
        self.path = self.path.removeprefix("/triton") if self.path.startswith("/triton/") else "/"
        super().do_GET()


def test_path_of_the_url_is_used() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxied) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        found = by_subject(check_server(f"http://127.0.0.1:{fake.server_port}/triton"))
        fake.shutdown()
    assert found["server"].what.startswith("Triton 2.71.0")


class Trickling(Fake):
    """Sends a byte now and then, for ever."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)


def test_check_server_gives_up_on_trickling_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickling) as fake:
        fake.daemon_threads = True
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        (finding,) = check_server(f"http://127.0.0.1:{fake.server_port}")
        fake.shutdown()
    assert finding.level == "error"


def test_server_on_all_addresses_is_not_local_even_through_loopback() -> None:
    with ThreadingHTTPServer(("0.0.0.0", 0), Fake) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        found = by_subject(check_server(f"http://127.0.0.1:{fake.server_port}"))
        fake.shutdown()
    assert {found[name].level for name in running.APIS} == {"error"}


@pytest.mark.parametrize("guarded", [False, True])
def test_grpc_is_checked_as_well(tiny_repository: Repository, tmp_path: Path, guarded: bool) -> None:
    groups = "model-repository,shared-memory,trace,logging:key=value1234"
    arguments = [f"--http-restricted-api={groups}", *([f"--grpc-restricted-protocol={groups}"] if guarded else [])]
    options = ServerOptions(models=["tiny"], log_file=tmp_path / "triton.log", arguments=arguments)
    with TritonServer(tiny_repository.root, options) as server:
        found = by_subject(check_server(server.http_url, server.grpc_url))
    for name in running.APIS:
        assert found[name].level == "ok"
        assert found[f"{name} by gRPC"].level == ("ok" if guarded else "note")
        assert found[f"{name} by gRPC"].what.startswith("guarded" if guarded else "open")
    unreachable = running._check_grpc("grpc://127.0.0.1:1")
    assert {(one.level, one.what[:12]) for one in unreachable} == {("note", "could not be")}
