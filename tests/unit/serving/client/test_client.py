from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.errors import (
    InvalidReplyError,
    LateError,
    RefusedError,
    UnavailableError,
    UnknownModelError,
)
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

PROTOCOLS = ["http", "grpc"]
INVALID_URLS = [
    "",
    "127.0.0.1:8000",
    "ftp://host:1",
    "http://host",
    "grpc://host:port",
    "http://:80",
    "grpc://host:1/path",
    "http://host:1/path?query=1",
    "http://host:1/#fragment",
    "http://[::1:80",
]


@pytest.fixture(params=PROTOCOLS)
def silent_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a service that accepts connections and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=PROTOCOLS)
def dead_url(request: pytest.FixtureRequest) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=PROTOCOLS)
def hanging_up_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a service that closes each connection in the middle of the request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(100)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_client_is_ready_and_lists_models(client: Client) -> None:
    assert client.ready()
    assert client.models() == ["tiny", "wide"]


def test_model_info_needs_only_a_url(client: Client, tiny_repository: Repository) -> None:
    for name, size, count, batch in (("tiny", 8, 4, 4), ("wide", 16, 300, 32)):
        info = client.model_info(name)
        card = tiny_repository.card(name, 1)
        assert info.preprocess == Preprocess(size=size)
        assert info.classes == card.classes
        assert len(info.classes) == count
        assert info.weights_sha256 == card.weights_sha256
        assert (info.version, info.max_batch_size, info.backend) == (1, batch, "onnxruntime")
        assert info.precision == "float32"


@pytest.mark.parametrize("count", [1, 3, 4])
def test_infer_equals_onnx_session(client: Client, tiny_repository: Repository, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(tiny_repository.root / "tiny" / "1" / "model.onnx")
    logits, probabilities = client.infer("tiny", images)
    expected = session.run(["logits", "probabilities"], {"images": images})
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected[0], rtol=1e-6)
    np.testing.assert_allclose(probabilities, expected[1], rtol=1e-6)


def test_infer_accepts_images_that_are_not_contiguous(client: Client) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 6), np.uint8)[..., ::2]
    np.testing.assert_array_equal(client.infer("tiny", images)[0], client.infer("tiny", images.copy())[0])


def settled(client: Client) -> dict[str, Any]:
    """Return statistics that no longer change: Triton counts a request some time after its reply."""
    last = client.statistics("tiny")
    while True:
        time.sleep(0.2)
        now = client.statistics("tiny")
        if now["inference_stats"]["success"]["count"] == last["inference_stats"]["success"]["count"]:
            return now
        last = now


def test_statistics_count_images(client: Client) -> None:
    client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
    before = settled(client)
    client.infer("tiny", np.zeros((3, 8, 8, 3), np.uint8))
    after = settled(client)
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert isinstance(after["inference_stats"]["compute_infer"]["ns"], int)


def test_unknown_model_error_lists_served_models(client: Client) -> None:
    for ask in (
        client.model_info,
        client.statistics,
        lambda name: client.infer(name, np.zeros((1, 8, 8, 3), np.uint8)),
    ):
        with pytest.raises(UnknownModelError, match="expected one of tiny, wide, found cats"):
            ask("cats")


def test_unknown_version_is_refused(client: Client) -> None:
    with pytest.raises(UnknownModelError, match="expected 1, found 9"):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8), version=9)


@pytest.mark.parametrize("shape", [(1, 9, 8, 3), (5, 8, 8, 3), (8, 8, 3)])
def test_infer_refuses_images_of_wrong_shape(client: Client, shape: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError):
        client.infer("tiny", np.zeros(shape, np.uint8))
    assert client.ready()


def test_client_fails_when_no_server_responds(dead_url: str) -> None:
    with Client(dead_url) as client:
        assert not client.ready()
        with pytest.raises(UnavailableError, match="shrinkserve serve"):
            client.models()


def test_infer_fails_when_connection_closes(hanging_up_url: str) -> None:
    with Client(hanging_up_url) as client, pytest.raises(UnavailableError):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_client_reports_service_that_is_not_triton(tiny_server: TritonServer, port: str) -> None:
    """Ports are easily mixed up; neither of these speaks Triton's HTTP protocol."""
    address = urlsplit(getattr(tiny_server, f"{port}_url")).netloc
    with (
        Client(f"http://{address}") as client,
        pytest.raises(InvalidReplyError) as caught,
    ):
        client.models()
    assert "\n" not in str(caught.value)


def test_infer_fails_when_no_reply_comes_in_time(silent_url: str) -> None:
    with Client(silent_url, timeout=0.3) as client, pytest.raises(LateError):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_timeout_covers_reply_that_trickles() -> None:
    """The timeout limits the whole request, not each read of the reply."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)

        threading.Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.5) as client, pytest.raises(LateError):
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("url", ["http://user:SECRET@127.0.0.1:8000", "grpc://SECRET@host:1"])
def test_client_rejects_url_with_password(url: str) -> None:
    with pytest.raises(ConfigError, match="--token") as caught:
        Client(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", INVALID_URLS)
def test_client_rejects_invalid_url(url: str) -> None:
    with pytest.raises(ConfigError, match="server URL"):
        Client(url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e12])
def test_client_rejects_invalid_timeout(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        Client("grpc://127.0.0.1:8001", timeout=timeout)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_infer_fails_when_server_stops(tiny_repository: Repository, tmp_path: Path, protocol: str) -> None:
    server = TritonServer(tiny_repository.root, ServerOptions(models=["tiny"], log_file=tmp_path / "log"))
    with server, Client(getattr(server, f"{protocol}_url"), timeout=10) as client:
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        server.stop()
        with pytest.raises(UnavailableError):
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_infer_rejects_images_of_wrong_type(client: Client) -> None:
    with pytest.raises(DataError, match="uint8"):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
