from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from shrinkserve import AsyncClient, Client
from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.errors import (
    InvalidReplyError,
    LateError,
    RefusedError,
    UnavailableError,
    UnknownModelError,
)
from shrinkserve.serving.server.server import TritonServer


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, tiny_server: TritonServer) -> str:
    return str(getattr(tiny_server, f"{request.param}_url"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for index, colour in enumerate(np.random.default_rng(3).integers(0, 256, (11, 3), np.uint8)):
        Image.new("RGB", (20, 20 + index), tuple(map(int, colour))).save(folder / f"{index:02}.png")
    return sorted(folder.iterdir())


def run(url: str, work: Callable[[AsyncClient], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, **options) as client:
            return await work(client)

    return asyncio.run(main())


def test_async_client_equals_sync_client(url: str, photos: list[Path]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)

    async def everything(client: AsyncClient) -> list[Any]:
        return [
            await client.ready(),
            await client.models(),
            await client.model_info("wide"),
            [part.tolist() for part in await client.infer("tiny", images)],
            await client.classify(photos, "tiny"),
            await client.classify_topk(photos, "wide", top=3),
        ]

    with Client(url) as client:
        assert run(url, everything) == [
            client.ready(),
            client.models(),
            client.model_info("wide"),
            [part.tolist() for part in client.infer("tiny", images)],
            client.classify(photos, "tiny"),
            client.classify_topk(photos, "wide", top=3),
        ]


def test_async_client_runs_many_calls_at_once(url: str, photos: list[Path]) -> None:
    async def many(client: AsyncClient) -> list[Any]:
        return list(await asyncio.gather(*(client.classify(photos, "tiny") for _ in range(10))))

    results = run(url, many)
    assert results == results[:1] * 10


def test_async_client_raises_the_same_errors(url: str) -> None:
    def refused(work: Callable[[AsyncClient], Awaitable[Any]], error: type[Exception], message: str) -> None:
        async def fail(client: AsyncClient) -> None:
            with pytest.raises(error, match=message):
                await work(client)

        run(url, fail)

    refused(lambda c: c.model_info("cats"), UnknownModelError, "expected one of tiny, wide, found cats")
    refused(lambda c: c.statistics("cats"), UnknownModelError, "expected one of tiny, wide, found cats")
    refused(lambda c: c.classify([b""]), RequestError, "expected one of tiny, wide")
    refused(lambda c: c.classify([b"no image"], "tiny"), DataError, "image 0")
    refused(lambda c: c.infer("tiny", np.zeros((1, 9, 9, 3), np.uint8)), RefusedError, "tiny")
    refused(lambda c: c.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8), version=9), UnknownModelError, "expected 1")


def test_async_client_refuses_other_contract(url: str) -> None:
    async def ask(client: AsyncClient) -> None:
        await client.model_info("tiny")
        await client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        with pytest.raises(RequestError, match="another preprocessing"):
            await client.model_info("wide")
        with pytest.raises(RequestError, match="another preprocessing"):
            await client.infer("wide", np.zeros((1, 16, 16, 3), np.uint8))

    run(url, ask, contract=Preprocess(size=8).fingerprint)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_async_client_fails_without_reply(protocol: str) -> None:
    async def ask(client: AsyncClient, error: type[RequestError]) -> None:
        with pytest.raises(error):
            await client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{protocol}://127.0.0.1:{listener.getsockname()[1]}"
        run(url, lambda client: ask(client, LateError), timeout=0.3)
    run(url, lambda client: ask(client, UnavailableError))
    assert run(url, lambda client: client.ready()) is False


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_async_client_reports_service_that_is_not_triton(tiny_server: TritonServer, port: str) -> None:
    async def ask(client: AsyncClient) -> None:
        with pytest.raises(InvalidReplyError) as caught:
            await client.models()
        assert "\\x" not in str(caught.value), "bytes of another protocol"

    run(f"http://{urlsplit(getattr(tiny_server, f'{port}_url')).netloc}", ask)


def test_async_stream_leaves_no_task_when_closed(url: str, photos: list[Path]) -> None:
    async def abandon(client: AsyncClient) -> int:
        stream = client.stream(photos * 10, "tiny")
        async for _ in stream:
            break
        await stream.aclose()
        return len(asyncio.all_tasks())

    assert run(url, abandon) == 1


def test_async_classify_leaves_no_task_after_an_error(url: str, photos: list[Path]) -> None:
    async def fail(client: AsyncClient) -> int:
        with pytest.raises(DataError) as caught:
            await client.classify([b"no image", *photos * 10], "tiny")
        assert "image 0" in str(caught.value)
        return len(asyncio.all_tasks())

    assert run(url, fail) == 1
