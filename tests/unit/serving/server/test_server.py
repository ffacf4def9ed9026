from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

import shrinkserve as ss
from shrinkserve.errors import ArtifactError, ConfigError, RequestError, ServerError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.loadable import Skip
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: no child process, no temporary folder, no shared memory beyond those before it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    shared = set(Path("/dev/shm").glob("triton_*"))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 20  # another test run's own supervisor removes its files
    while left := {str(path) for path in set(Path("/dev/shm").glob("triton_*")) - shared} - mapped():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def mapped() -> set[str]:
    """Return the shared memory that any server uses, also that of another test run."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found |= set(re.findall(r"/dev/shm/triton_\S+", maps.read_text()))
    return found


def options(tmp_path: Path, **more: object) -> ServerOptions:
    return ServerOptions(log_file=tmp_path / "triton.log", **more)  # type: ignore[arg-type]


def predicts(server: TritonServer) -> bool:
    with Client(server.grpc_url) as grpc, Client(server.http_url) as http:
        images = np.zeros((1, 8, 8, 3), np.uint8)
        return bool((grpc.infer("tiny", images)[0] == http.infer("tiny", images)[0]).all())


def test_server_serves_all_models_and_stops(tiny_repository: Repository, tmp_path: Path) -> None:
    with TritonServer(tiny_repository.root, options(tmp_path)) as server:
        # Metrics come last, some 40 ms after HTTP and readiness.
        assert "Started Metrics Service" in (tmp_path / "triton.log").read_text()
        assert server.models == ["tiny", "wide"]
        with urllib.request.urlopen(server.metrics_url, timeout=60) as page:
            assert b"nv_inference_request_success" in page.read()
        images = np.zeros((1, 8, 8, 3), np.uint8)
        with Client(server.grpc_url) as grpc, Client(server.http_url) as http:
            assert grpc.models() == http.models() == ["tiny", "wide"]
            np.testing.assert_array_equal(grpc.infer("tiny", images)[0], http.infer("tiny", images)[0])
    assert "Started HTTPService" in (tmp_path / "triton.log").read_text()


def test_server_is_part_of_the_public_api(tiny_repository: Repository, tmp_path: Path) -> None:
    options = ss.ServerOptions(models=["tiny"], log_file=tmp_path / "triton.log")
    with ss.Server(str(tiny_repository.root), options) as server, ss.Client(server.grpc_url) as client:
        assert client.models() == server.public_names == ["tiny"]
        assert server.grpc_url in repr(server)
        with pytest.raises(ServerError, match="runs already"), server:
            pass


def test_server_loads_only_chosen_models(tiny_repository: Repository, tmp_path: Path) -> None:
    with (
        TritonServer(tiny_repository.root, options(tmp_path, models=["wide"])) as server,
        Client(server.http_url) as http,
    ):
        assert http.models() == ["wide"]


def test_server_listens_on_loopback_only(tiny_repository: Repository, tmp_path: Path) -> None:
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"])) as server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        bound = [c.laddr for process in family for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len({address.port for address in bound}) == 3
    assert {address.ip.removeprefix("::ffff:") for address in bound} == {"127.0.0.1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.invalid"])
def test_server_from_pypi_refuses_other_addresses(tiny_repository: Repository, tmp_path: Path, host: str) -> None:
    with (
        pytest.raises((ConfigError, ServerError), match=host),
        TritonServer(tiny_repository.root, options(tmp_path, host=host)),
    ):
        pass


def test_insecure_allows_any_address(tiny_repository: Repository, tmp_path: Path) -> None:
    chosen = options(tmp_path, host="0.0.0.0", insecure=True, models=["tiny"])
    with TritonServer(tiny_repository.root, chosen) as server:
        assert server.http_url.startswith("http://0.0.0.0:")


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_server_accepts_host_names_and_ipv6(tiny_repository: Repository, tmp_path: Path, host: str) -> None:
    with TritonServer(tiny_repository.root, options(tmp_path, host=host, models=["tiny"])) as server:
        assert predicts(server)
        with urllib.request.urlopen(server.metrics_url, timeout=60) as page:
            assert b"nv_inference_request_success" in page.read()


@pytest.mark.parametrize("name", ["my models", "a;b", "a'b", 'a"b', "a&b", "a(b)", "a*b", "a|b", "<b>", "a`b`", "$(b)"])
@pytest.mark.parametrize("fixed", [True, False])
def test_server_accepts_special_characters_in_the_repository_path(
    tiny_repository: Repository, tmp_path: Path, name: str, fixed: bool
) -> None:
    if fixed and name != "my models":
        pytest.skip("one is enough")
    root = shutil.copytree(tiny_repository.root, tmp_path / name)
    with TritonServer(root, options(tmp_path, models=["tiny"], fixed=fixed, ready_seconds=20)) as server:
        assert predicts(server)


def test_server_accepts_special_characters_in_the_temporary_path(
    tiny_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t mp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t mp"))
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"], ready_seconds=20)) as server:
        assert predicts(server)


def test_modules_of_the_working_directory_are_not_run(
    tiny_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "numpy"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "__init__.py").write_text("raise RuntimeError('of the working directory')")
    monkeypatch.chdir(tmp_path / "here")
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"])) as server:
        assert predicts(server)


def test_server_traces_every_request(tiny_repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"], trace=tmp_path / "traces")) as server:
        assert predicts(server)
    records = [record for path in (tmp_path / "traces").iterdir() for record in json.loads(path.read_text())]
    assert sum(record.get("model_name") == "tiny" for record in records) == 2


@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_server_reports_port_that_is_taken(tiny_repository: Repository, tmp_path: Path, service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = TritonServer(tiny_repository.root, options(tmp_path, **{f"{service}_port": port}))
        with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port} cannot be bound for {service} .*in use"), server:
            pass


@pytest.mark.parametrize("host", ["203.0.113.77", "no-such-host.invalid"])  # RFC 5737 and 6761: never ours
def test_server_rejects_address_of_another_machine(tiny_repository: Repository, tmp_path: Path, host: str) -> None:
    server = TritonServer(tiny_repository.root, options(tmp_path, host=host, insecure=True))
    with pytest.raises(ServerError, match=rf"{host}.*give an address of this machine"), server:
        pass


def test_port_taken_during_the_start_is_reported(tiny_repository: Repository, tmp_path: Path) -> None:
    """Triton itself notices, and the other server's responses are not taken for ours."""
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"])) as first:
        port = int(first.http_url.rsplit(":", 1)[1])
        second = TritonServer(
            tiny_repository.root,
            ServerOptions(models=["tiny"], log_file=tmp_path / "second.log", arguments=[f"--http-port={port}"]),
        )
        with pytest.raises(ServerError, match=f"HTTP service: .*127.0.0.1:{port}.* already in use"), second:
            pass


def test_server_rejects_missing_and_empty_repository_and_unknown_model(
    tiny_repository: Repository, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="no such model repository"):
        TritonServer(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServerError, match="no model in this repository"):
        TritonServer(tmp_path / "empty")
    with pytest.raises(ConfigError, match="expected tiny, wide, found large"):
        TritonServer(tiny_repository.root, ServerOptions(models=["tiny", "large"]))


def test_server_reports_model_that_fails_to_load(tiny_repository: Repository, tmp_path: Path) -> None:
    broken = tmp_path / "models"
    shutil.copytree(tiny_repository.root, broken)
    (broken / "tiny/1/model.onnx").write_bytes(b"no protobuf")
    with (
        pytest.raises(ServerError, match=r"model 'tiny' cannot be loaded: .*Protobuf parsing failed.*triton\.log"),
        TritonServer(broken, options(tmp_path)),
    ):
        pass


def test_server_that_dies_is_reported_and_its_stubs_end(tiny_repository: Repository, tmp_path: Path) -> None:
    with TritonServer(tiny_repository.root, options(tmp_path, models=["tiny"])) as server:
        (triton,) = (p for p in psutil.Process(server.pid).children() if p.name() == "tritonserver")
        triton.kill()
        with pytest.raises(ServerError, match=r"SIGKILL"):
            server.wait()


def test_server_reports_that_it_is_not_ready_in_time(tiny_repository: Repository, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="not ready"),
        TritonServer(tiny_repository.root, options(tmp_path, ready_seconds=0.01)),
    ):
        pass


def test_interrupt_during_the_start_stops_the_server(tiny_repository: Repository, tmp_path: Path) -> None:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt), TritonServer(tiny_repository.root, options(tmp_path)) as server:
            server.wait()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_token_guards_the_restricted_apis(tiny_repository: Repository, tmp_path: Path) -> None:
    chosen = options(tmp_path, models=["tiny"], token="only-for-friends")
    with TritonServer(tiny_repository.root, chosen) as server:
        http = triton_http.InferenceServerClient(server.http_url.removeprefix("http://"))
        grpc = triton_grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
        keys = {"shrinkserve-token": "only-for-friends"}, {"triton-grpc-protocol-shrinkserve-token": "only-for-friends"}
        for client, key in zip((http, grpc), keys, strict=True):
            for call in (
                client.get_model_repository_index,
                client.get_system_shared_memory_status,
                client.get_trace_settings,
                client.get_log_settings,
            ):
                with pytest.raises(InferenceServerException, match="restricted"):
                    call()
                with pytest.raises(InferenceServerException, match="restricted"):
                    call(headers=dict.fromkeys(key, "a-wrong-token"))
                call(headers=key)
            with pytest.raises(InferenceServerException, match="restricted"):
                client.unload_model("tiny")
            assert client.is_model_ready("tiny")
            client.get_inference_statistics("tiny")
            client.close()
    assert "only-for-friends" not in (tmp_path / "triton.log").read_text() + repr(chosen)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_fixed_server_refuses_load_and_unload(tiny_repository: Repository, tmp_path: Path, protocol: str) -> None:
    chosen = options(tmp_path, fixed=True, token="only-for-friends")
    with (
        TritonServer(tiny_repository.root, chosen) as server,
        Client(getattr(server, f"{protocol}_url"), token="only-for-friends") as client,
    ):
        assert client.models() == ["tiny", "wide"]
        for change in (client.load, client.unload):
            with pytest.raises(RequestError, match="not allowed"):
                change("tiny")
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_fixed_server_serves_chosen_models_only(tiny_repository: Repository, tmp_path: Path) -> None:
    with (
        TritonServer(tiny_repository.root, options(tmp_path, fixed=True, models=["wide"])) as server,
        Client(server.grpc_url) as client,
    ):
        assert client.models() == ["wide"]
        assert len(client.model_info("wide").classes) == 300
        client.infer("wide", np.zeros((1, 16, 16, 3), np.uint8))
    assert (tiny_repository.root / "wide" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("token", [[], ["--token", "only-for-friends"]])
def test_serve_without_token_refuses_load_with_any_word_of_its_command_line(
    tiny_repository: Repository, tmp_path: Path, token: list[str]
) -> None:
    ports = [word for service in ("http", "grpc", "metrics") for word in (f"--{service}-port", "0")]
    place = ["--repository", str(tiny_repository.root), "--log-file", str(tmp_path / "triton.log")]
    process = subprocess.Popen(
        [sys.executable, "-m", "shrinkserve", "serve", *place, *ports, *token],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "SHRINKSERVE_TOKEN"},
    )
    try:
        assert process.stdout is not None
        _, url, *_ = [process.stdout.readline().strip() for _ in range(4)]
        words = {word for child in psutil.Process(process.pid).children(recursive=True) for word in child.cmdline()}
        secrets = {part for word in words for part in re.split(r"[=:, ]", word)} - {""}
        assert "shrinkserve-token" in secrets
        statuses = set()
        for secret in secrets:
            with Client(url, token=secret) as client:
                try:
                    client.load("tiny")
                    statuses.add("loaded")
                except RequestError:
                    statuses.add("refused")
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert ("loaded" in statuses) == bool(token)
    assert errors.startswith("warning: users of this machine can read the token" if token else "")
    assert bool(errors) == bool(token)


def test_server_uses_tls_for_grpc_only(tiny_repository: Repository, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    chosen = options(tmp_path, models=["tiny"], tls=(certificate, key))
    with TritonServer(tiny_repository.root, chosen) as server:
        assert server.grpc_url.startswith("grpcs://127.0.0.1:")
        address = server.grpc_url.removeprefix("grpcs://")
        with triton_grpc.InferenceServerClient(address, ssl=True, root_certificates=str(certificate)) as client:
            assert client.is_server_ready()
        with (
            Client(server.grpc_url) as stranger,
            pytest.raises(RequestError, match="GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
        ):
            stranger.models()
        with (
            triton_grpc.InferenceServerClient(address) as client,
            pytest.raises(InferenceServerException, match=r"UNAVAILABLE|unavailable"),
        ):
            client.is_server_ready()


def test_options_refuse_values_that_triton_would_misread(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--token: expected 8 or more letters"):
        ServerOptions(token="a=b,c:d/e f")
    with pytest.raises(ConfigError, match=r"none\.pem: no such file"):
        ServerOptions(tls=(tmp_path / "none.pem", tmp_path / "none.key"))
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"--tls: \S+ and \S+: expected a certificate and its key \(PEM\), found "):
        ServerOptions(tls=(tmp_path / "text", tmp_path / "text"))


def test_options_take_one_model_and_paths_as_text(tmp_path: Path) -> None:
    options = ServerOptions(models="tiny", trace=str(tmp_path), log_file=str(tmp_path / "log"))
    assert list(options.models) == ["tiny"]
    with pytest.raises(ConfigError, match="absent"):
        ServerOptions(tls=("absent", "absent"))


@pytest.mark.parametrize("name", ["http_url", "grpc_url", "metrics_url", "log_file", "pid"])
def test_server_that_was_not_started_has_no_address(tiny_repository: Repository, name: str) -> None:
    server = TritonServer(tiny_repository.root)
    assert "not started" in repr(server)
    with pytest.raises(ServerError):
        getattr(server, name)


def test_incomplete_model_is_skipped_and_the_engine_is_used(tiny_repository: Repository, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(tiny_repository.root, root)
    (root / "wide/1/model.onnx").unlink()
    (root / "tiny/configs").mkdir()
    text = (root / "tiny/config.pbtxt").read_text()
    (root / "tiny/configs/large.pbtxt").write_text(text.replace("max_batch_size: 4", "max_batch_size: 7"))
    with TritonServer(root, options(tmp_path, engine="large")) as server:
        assert server.models == ["tiny"]
        assert server.skipped["wide"].kind is Skip.NO_FILE
        with triton_grpc.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
            assert client.get_model_config("tiny").config.max_batch_size == 7
