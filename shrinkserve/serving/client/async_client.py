"""Client for the classifiers of a Triton server, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from shrinkserve.concurrency import ordered_tasks
from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.async_transport import AsyncTransport, connect
from shrinkserve.serving.client.core import ClientCore, check_counts
from shrinkserve.serving.client.endpoint import parse_url
from shrinkserve.serving.client.errors import RestrictedError
from shrinkserve.serving.client.images import Source, numbered
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.client.operations import (
    Compute,
    Flow,
    InferRequest,
    InferResult,
    ModelStatistics,
    Operation,
    Pause,
    ReadyRequest,
)
from shrinkserve.serving.client.prediction import ClassifyResult, Floats, Prediction, chunks

T = TypeVar("T")


class AsyncClient:
    """Client for a Triton server, over HTTP or gRPC, for asyncio; an asynchronous context manager.

    Its methods are those of `shrinkserve.Client`. Images are decoded in threads, so the event loop is not blocked.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT`` (``https``, ``grpcs`` with TLS).
        timeout: seconds that one request may take.
        contract: hash of the only preprocessing that is accepted; by default any is.
        token: for the requests that the server restricts.
        insecure: allow sending the token without TLS to another machine.

    Raises:
        ConfigError: an option is invalid.

    Example:
        ```python
        async with AsyncClient("grpc://127.0.0.1:8001") as client:
            for label, probability in await client.classify(["cat.jpg", "dog.jpg"]):
                print(label, probability)
        ```
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        contract: str | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        self.url = url
        self._endpoint = parse_url(url, timeout, token, insecure=insecure)
        self._core = ClientCore(self._endpoint, contract)
        # The libraries bind their connections to an event loop.
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncTransport] = WeakKeyDictionary()
        self._closed = False

    async def ready(self) -> bool:
        """Return True if a server is there and ready."""
        try:
            return await self._perform(ReadyRequest())
        except RequestError:
            return False

    async def models(self) -> list[str]:
        """Return the names of the ready models; see `Client.models`."""
        return await self._run(self._core.models())

    async def only_model(self) -> str:
        """Return the public name of the only model; see `Client.only_model`."""
        return await self._run(self._core.only_model())

    async def model_info(self, model: str) -> ModelInfo:
        """Return what a model expects; see `Client.model_info`."""
        return await self._run(self._core.model_info(model))

    async def classify(self, sources: Iterable[Source], model: str | None = None) -> list[Prediction]:
        """Return the most probable class of each image; see `Client.classify`."""
        return [predictions[0] for predictions in await self.classify_topk(sources, model, top=1)]

    async def classify_topk(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5
    ) -> list[list[Prediction]]:
        """Return the `top` most probable classes of each image; see `Client.classify_topk`."""
        ranked = []
        async with aclosing(self.stream(sources, model, top=top)) as results:
            async for result in results:
                if result.error is not None:
                    raise result.error
                ranked.append(result.predictions)
        return ranked

    async def stream(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 4, priority: int = 0
    ) -> AsyncGenerator[ClassifyResult]:
        """Yield the result of each image; see `Client.stream`."""
        check_counts(top=top, workers=workers, priority=priority)
        name = await self._run(self._core.choose(model))
        size = await self._run(self._core.batch_size(name))
        work = (
            self._run(self._core.classify(name, chunk, top, priority)) for chunk in chunks(_numbered(sources), size)
        )
        async with aclosing(ordered_tasks(work, workers)) as results:
            async for chunk in results:
                for result in chunk:
                    yield result

    async def stream_encoded(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 8, priority: int = 0
    ) -> AsyncGenerator[ClassifyResult]:
        """Yield the result of each image, which the server decodes; see `Client.stream_encoded`."""
        check_counts(top=top, workers=workers, priority=priority)
        name = await self._run(self._core.ensemble(model))
        work = (self._run(self._core.classify_encoded(name, *item, top, priority)) for item in _numbered(sources))
        async with aclosing(ordered_tasks(work, workers)) as results:
            async for result in results:
                yield result

    async def infer(
        self, model: str, images: Pixels, *, version: int | None = None, priority: int = 0
    ) -> tuple[Floats, Floats]:
        """Return logits and probabilities of prepared images; see `Client.infer`."""
        return await self._run(self._core.infer(model, images, version, priority))

    async def send(self, request: InferRequest) -> InferResult:
        """Send one inference request as it is and return its result; see `Client.send`."""
        return await self._run(self._core.send(request))

    async def statistics(self, model: str) -> ModelStatistics:
        """Return Triton's statistics of a model; see `Client.statistics`."""
        return await self._run(self._core.statistics(model))

    async def close(self) -> None:
        """Close the connections of the running event loop; those of other loops are closed with them."""
        self._closed = True
        transport = self._transports.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def _run(self, flow: Flow[T]) -> T:
        try:
            operation = next(flow)
            while True:
                try:
                    result = await self._perform(operation)
                except (RequestError, DataError) as exc:
                    operation = flow.throw(exc)
                else:
                    operation = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _perform(self, operation: Operation[T]) -> T:
        if isinstance(operation, Compute):
            return cast("T", await asyncio.to_thread(operation.function))
        if isinstance(operation, Pause):
            return cast("T", await asyncio.sleep(operation.seconds))
        try:
            return await self._transport().send(operation)
        except RestrictedError:
            if not self._endpoint.restrict(operation):
                raise
        return await self._transport().send(operation)

    def _transport(self) -> AsyncTransport:
        """Return the transport of the running event loop."""
        if self._closed:
            raise RequestError(f"{self.url}: this client is closed", hint="create another one")
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = connect(self._endpoint)
        return transport


def _numbered(sources: Iterable[Source]) -> Iterable[tuple[int, Source]]:
    if hasattr(sources, "__aiter__"):
        found, hint = "an asynchronous one", "collect the images in a list first"
        raise DataError("images", expected="an iterable of images", found=found, hint=hint)
    return numbered(sources)
