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

from shrinkserve.errors import ConfigError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

PROTOCOLS = ["http", "grpc"]


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[Client]:
    with Client(getattr(tiny_server, f"{request.param}_url")) as client:
        yield client


@pytest.fixture(params=PROTOCOLS)
def silent_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=PROTOCOLS)
def dead_url(request: pytest.FixtureRequest) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=PROTOCOLS)
def hanging_up_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of something that closes each connection in the middle of the request."""
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


def test_what_is_served(client: Client) -> None:
    assert client.ready()
    assert client.models() == ["tiny", "wide"]


def test_contract_from_a_url_only(client: Client, tiny_repository: Repository) -> None:
    for name, size, count, batch in (("tiny", 8, 4, 4), ("wide", 16, 300, 32)):
        contract = client.contract(name)
        card = tiny_repository.card(name, 1)
        assert contract.preprocess == Preprocess(size=size)
        assert contract.classes == card.classes
        assert len(contract.classes) == count
        assert contract.weights_sha256 == card.weights_sha256
        assert (contract.version, contract.max_batch_size, contract.backend) == (1, batch, "onnxruntime")
        assert contract.precision == "float32"


@pytest.mark.parametrize("count", [1, 3, 4])
def test_answers_are_those_of_the_session(client: Client, tiny_repository: Repository, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(tiny_repository.root / "tiny" / "1" / "model.onnx")
    logits, probabilities = client.infer("tiny", images)
    expected = session.run(["logits", "probabilities"], {"images": images})
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected[0], rtol=1e-6)
    np.testing.assert_allclose(probabilities, expected[1], rtol=1e-6)


def test_images_need_not_be_contiguous(client: Client) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 6), np.uint8)[..., ::2]
    np.testing.assert_array_equal(client.infer("tiny", images)[0], client.infer("tiny", images.copy())[0])


def settled(client: Client) -> dict[str, Any]:
    """Statistics that stand still: Triton counts a request some time after it has answered it."""
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


def test_unknown_model_names_the_served_ones(client: Client) -> None:
    for ask in (client.contract, client.statistics, lambda name: client.infer(name, np.zeros((1, 8, 8, 3), np.uint8))):
        with pytest.raises(RequestError, match="expected one of tiny, wide, found cats"):
            ask("cats")


def test_unknown_version_is_refused(client: Client) -> None:
    with pytest.raises(RequestError, match="no such version of tiny is ready: expected 1, found 9"):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8), version=9)


@pytest.mark.parametrize("shape", [(1, 9, 8, 3), (5, 8, 8, 3), (8, 8, 3)])
def test_images_of_another_shape_are_refused(client: Client, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="the request was refused"):
        client.infer("tiny", np.zeros(shape, np.uint8))
    assert client.ready()


def test_no_server(dead_url: str) -> None:
    with Client(dead_url) as client:
        assert not client.ready()
        with pytest.raises(RequestError, match=r"no server answers .*shrinkserve serve"):
            client.models()


def test_server_that_hangs_up(hanging_up_url: str) -> None:
    with Client(hanging_up_url) as client, pytest.raises(RequestError, match="no server answers"):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_another_service_at_the_port(tiny_server: TritonServer, port: str) -> None:
    """Ports are easily mixed up; neither of these speaks the HTTP of Triton's protocol."""
    address = urlsplit(getattr(tiny_server, f"{port}_url")).netloc
    with (
        Client(f"http://{address}") as client,
        pytest.raises(RequestError, match=r"no server answers \(.+\); .*check the URL") as caught,
    ):
        client.models()
    assert "\n" not in str(caught.value)


def test_server_that_never_answers(silent_url: str) -> None:
    with Client(silent_url, timeout=0.3) as client, pytest.raises(RequestError, match="no answer in time"):
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_answer_that_never_ends() -> None:
    """The deadline is of the whole request, however often another byte of the answer comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout=0.5) as client, pytest.raises(RequestError, match="no answer in time"):
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("url", ["http://user:SECRET@127.0.0.1:8000", "grpc://SECRET@host:1"])
def test_client_rejects_url_with_password(url: str) -> None:
    with pytest.raises(ConfigError, match="--token") as caught:
        Client(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host:1", "http://host", "grpc://host:port", "http://:80"])
def test_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST:PORT or grpc://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_at_all(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout: expected more than 0 s, found"):
        Client("grpc://127.0.0.1:8001", timeout=timeout)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_server_that_dies(tiny_repository: Repository, tmp_path: Path, protocol: str) -> None:
    server = TritonServer(tiny_repository.root, ServerOptions(models=["tiny"], log_file=tmp_path / "log"))
    with server, Client(getattr(server, f"{protocol}_url"), timeout=10) as client:
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        server.stop()
        with pytest.raises(RequestError, match="no server answers"):
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
