"""Effects of serving options on clients of a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import RequestError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.errors import LateError, RestrictedError
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

SECRET = "open-sesame"
RESTRICTED = f"model-repository,shared-memory:shrinkserve-token={SECRET}"
IMAGE = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., tuple[Path, Card]]
) -> Iterator[TritonServer]:
    """`waiting` delays a request for a second to fill a batch and queues one; `patient` queues any number."""
    root = tmp_path_factory.mktemp("options") / "models"
    repository = Repository(root)
    slow = ServingConfig(
        max_batch_size=4,
        preferred_batch_sizes=(4,),
        queue_delay_us=1_000_000,
        queue_size=1,
        warmup=False,
    )
    repository.add("waiting", *make_model(0), options=slow)
    repository.add("patient", *make_model(0), options=replace(slow, queue_size=0))
    repository.add("hasty", *make_model(0), options=replace(slow, queue_size=0, queue_timeout_us=100_000))
    repository.add("cached", *make_model(0), options=ServingConfig(response_cache=True, warmup=False))
    options = ServerOptions(
        log_file=tmp_path_factory.mktemp("log") / "triton.log",
        arguments=(
            f"--http-restricted-api={RESTRICTED}",
            f"--grpc-restricted-protocol={RESTRICTED}",
        ),
    )
    with TritonServer(root, options) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    return str(getattr(server, f"{request.param}_url"))


def test_model_control_needs_the_token(url: str) -> None:
    with Client(url) as stranger, Client(url, token=SECRET) as owner:
        assert stranger.models() == ["cached", "hasty", "patient", "waiting"]
        assert stranger.model_info("cached").classes == owner.model_info("cached").classes
        for refused in (stranger.load, stranger.unload):
            with pytest.raises(RestrictedError):
                refused("cached")
        owner.load("cached")


def test_shared_memory_needs_the_token(url: str) -> None:
    with Client(url, shared_memory=True) as stranger, pytest.raises(RequestError, match="give the token"):
        stranger.infer("cached", IMAGE)
    with Client(url, shared_memory=True, token=SECRET) as owner:
        owner.infer("cached", IMAGE)
    assert not list(Path("/dev/shm").glob("shrinkserve-*"))


def test_full_queue_is_reported(url: str) -> None:
    printed: list[str] = []

    def ask() -> None:
        try:
            with Client(url) as client:
                client.infer("waiting", IMAGE)
        except RequestError as exc:
            printed.append(str(exc))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert printed
    assert all("the queue is full" in line for line in printed)


def test_request_beyond_queue_timeout_is_rejected(url: str) -> None:
    with Client(url) as client, pytest.raises(LateError):
        client.infer("hasty", IMAGE)


def test_client_timeout_ends_the_wait(url: str) -> None:
    with Client(url, timeout=0.2) as client, pytest.raises(LateError):
        client.infer("patient", IMAGE)


def test_response_cache_option_loads_on_server_without_cache(url: str) -> None:
    """The server from PyPI has no cache; the option must not prevent a load there."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    with Client(url) as client:
        np.testing.assert_array_equal(client.infer("cached", images)[0], client.infer("cached", images)[0])
