from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from shrinkserve import Client
from shrinkserve.errors import ConfigError
from shrinkserve.serving.client.errors import RefusedError
from shrinkserve.serving.server.server import TritonServer


def regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("shrinkserve-*")}


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[str]:
    before = regions()
    yield str(getattr(tiny_server, f"{request.param}_url"))
    assert regions() == before, "a region stayed after its client was closed"


def test_shared_memory_gives_the_same_results(url: str) -> None:
    rng = np.random.default_rng(0)
    with Client(url) as sending, Client(url, shared_memory=True) as sharing:
        before = regions()
        for count in (1, 4, 2):  # the region grows, and is reused for a smaller request
            images = rng.integers(0, 256, (count, 8, 8, 6), np.uint8)[..., ::2]
            np.testing.assert_array_equal(sharing.infer("tiny", images)[0], sending.infer("tiny", images)[0])
        assert len(regions() - before) == 1
        assert sharing.model_info("wide") == sending.model_info("wide")


def test_threads_use_separate_regions(url: str) -> None:
    wrong: list[int] = []
    with Client(url) as sending, Client(url, shared_memory=True) as sharing:

        def ask(seed: int) -> None:
            images = np.random.default_rng(seed).integers(0, 256, (2, 8, 8, 3), np.uint8)
            expected = sending.infer("tiny", images)[0]
            wrong.extend(seed for _ in range(20) if not np.allclose(sharing.infer("tiny", images)[0], expected))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_regions_are_reused(url: str) -> None:
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in range(8)]
    with Client(url) as sending, Client(url, shared_memory=True) as sharing:
        before = regions()
        expected = sending.classify(images, "tiny")
        for _ in range(10):
            assert sharing.classify(images, "tiny") == expected
        assert 1 <= len(regions() - before) <= 2  # eight images are two requests


def test_classify_registers_region_again_after_server_restart(url: str, tiny_server: TritonServer) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with Client(url, shared_memory=True) as client:
        results = client.classify([image], "tiny")
        with triton.InferenceServerClient(tiny_server.grpc_url.removeprefix("grpc://")) as other:
            other.unregister_system_shared_memory()
        assert client.classify([image], "tiny") == results


def test_region_is_usable_after_refused_request(url: str) -> None:
    with Client(url, shared_memory=True) as client:
        with pytest.raises(RefusedError):
            client.infer("tiny", np.zeros((1, 9, 9, 3), np.uint8))
        client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))


def test_client_rejects_shared_memory_with_other_machine() -> None:
    with pytest.raises(ConfigError, match=r"found grpc://192\.0\.2\.1:8001"):
        Client("grpc://192.0.2.1:8001", shared_memory=True)
