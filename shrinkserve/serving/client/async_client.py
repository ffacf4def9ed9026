"""The client for asyncio: `shrinkserve.serving.client.Client`, awaited."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any

from shrinkserve.artifact import LOGITS, PROBABILITIES
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.client import ATTEMPTS, MAX_BATCH, RETRY_PAUSES, Floats
from shrinkserve.serving.client.errors import (
    RefusedError,
    UnavailableError,
    UnknownModelError,
    explained,
    no_encoded,
    only,
    unknown,
    unsteady,
)
from shrinkserve.serving.client.images import Source, encoded_bytes, name_of, numbered
from shrinkserve.serving.client.model_info import ModelInfo, from_config, label_request, read_labels
from shrinkserve.serving.client.prediction import (
    ClassifyResult,
    Prediction,
    Prepared,
    Result,
    chunks,
    encoded_request,
    labelled,
    pixels_request,
)
from shrinkserve.serving.client.transport import (
    CHANNEL,
    InferRequest,
    InferResult,
    model_statistics,
    parse_config,
    parse_url,
    request,
)
from shrinkserve.serving.names import classifier_name, public_name, public_names, resolve_classifier


class AsyncClient:
    """A Triton server, over HTTP or gRPC, for one event loop; an asynchronous context manager.

    Args and raises: as `shrinkserve.serving.client.Client`.
    """

    def __init__(
        self, url: str, *, timeout: float = 60.0, contract: str | None = None, token: str | None = None
    ) -> None:
        self.url = url
        self._endpoint = parse_url(url, timeout, token)
        self._expected = contract
        self._agreed: dict[str, ModelInfo] = {}
        self._classifiers: dict[str, str] = {}
        self._opened: Any = None

    async def ready(self) -> bool:
        """Whether a server is there and ready."""
        try:
            with explained(self.url):
                return bool(await self._client.is_server_ready(**self._call))
        except UnavailableError:
            return False

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return sorted({one["name"] for one in await self._statistics()})

    async def contract(self, model: str) -> ModelInfo:
        """As `Client.contract`."""
        model = await self._classifier(model)
        for _ in range(ATTEMPTS):
            try:
                with explained(self.url):
                    raw = await self._client.get_model_config(model, **self._call)
                config = parse_config(raw) if self._endpoint.http else raw.config
                contract = from_config(config, [], self._expected)
                return replace(contract, classes=read_labels(await self._infer(label_request(config))))
            except UnknownModelError as exc:
                if model not in await self.models():
                    raise unknown(self.url, await self._statistics(), model) from exc
        raise unsteady(self.url, model)

    async def classify(self, sources: Iterable[Source], model: str | None = None) -> list[Prediction]:
        """As `Client.classify`."""
        return [predictions[0] for predictions in await self.rank(sources, model, top=1)]

    async def rank(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5
    ) -> list[list[Prediction]]:
        """As `Client.rank`."""
        ranked = []
        async for outcome in self.stream(sources, model, top=top):
            if outcome.error is not None:
                raise outcome.error
            ranked.append(outcome.predictions)
        return ranked

    async def stream(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 4, priority: int = 0
    ) -> AsyncIterator[ClassifyResult]:
        """As `Client.stream`; images are decoded in threads, so the event loop is not held up."""
        name = model or await self.only_model()
        batch = min((await self._contract(name)).max_batch_size or 1, MAX_BATCH)
        work = (self._classify(name, chunk, top, priority) for chunk in chunks(numbered(sources), batch))
        async with aclosing(_in_order(work, workers)) as answers:
            async for outcomes in answers:
                for outcome in outcomes:
                    yield outcome

    async def stream_encoded(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 8, priority: int = 0
    ) -> AsyncIterator[ClassifyResult]:
        """As `Client.stream_encoded`."""
        name = public_name(model or await self.only_model())
        if self._expected is not None:
            await self._contract(name)
        if not {name, classifier_name(name)} <= set(await self.models()):
            raise no_encoded(self.url, name)
        work = (self._classify_encoded(name, *item, top, priority) for item in numbered(sources))
        async with aclosing(_in_order(work, workers)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def only_model(self) -> str:
        """As `Client.only_model`."""
        return only(self.url, public_names(await self.models()))

    async def infer(
        self, model: str, images: Pixels, *, version: int | None = None, priority: int = 0
    ) -> tuple[Floats, Floats]:
        """As `Client.infer`."""
        for _ in range(ATTEMPTS):
            pinned = version is None and self._expected is not None
            chosen = (await self._contract(model)).version if pinned else version
            question = pixels_request(await self._classifier(model), images, chosen, priority)
            try:
                reply = await self._infer(question)
                return reply.tensors[LOGITS], reply.tensors[PROBABILITIES]
            except UnknownModelError as exc:
                if not pinned:
                    raise unknown(self.url, await self._statistics(), question.model, question.version) from exc
                self._agreed.pop(model, None)
        raise unsteady(self.url, model)

    async def _classifier(self, model: str) -> str:
        if model not in self._classifiers:
            served = await self.models()
            found = resolve_classifier(model, served)
            if found not in served:
                return found
            self._classifiers[model] = found
        return self._classifiers[model]

    async def send(self, question: InferRequest) -> InferResult:
        """As `Client.ask`."""
        try:
            return await self._infer(question)
        except UnknownModelError as exc:
            raise unknown(self.url, await self._statistics(), question.model, question.version) from exc

    async def statistics(self, model: str) -> dict[str, Any]:
        """As `Client.statistics`."""
        try:
            return max(await self._statistics(model), key=lambda one: int(one["version"]))
        except UnknownModelError as exc:
            raise unknown(self.url, await self._statistics(), model) from exc

    async def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _client(self) -> Any:
        # Opened by the first request: the libraries bind to the event loop that runs then.
        if self._opened is None:
            where = self._endpoint
            if where.http:
                self._opened = self._library.InferenceServerClient(
                    where.address, ssl=where.tls, conn_timeout=where.timeout
                )
            else:
                self._opened = self._library.InferenceServerClient(where.address, ssl=where.tls, channel_args=CHANNEL)
        return self._opened

    @property
    def _library(self) -> Any:
        if self._endpoint.http:
            import tritonclient.http.aio as library
        else:
            import tritonclient.grpc.aio as library
        return library

    @property
    def _call(self) -> dict[str, Any]:
        where = self._endpoint
        headers = {"headers": where.headers}
        return headers if where.http else {**headers, "client_timeout": where.timeout}

    async def _statistics(self, model: str = "") -> list[dict[str, Any]]:
        with explained(self.url):
            found = await self._client.get_inference_statistics(model, **self._call)
        return list(found["model_stats"]) if self._endpoint.http else model_statistics(found)

    async def _infer(self, question: InferRequest) -> InferResult:
        with explained(self.url):
            result = await self._client.infer(**request(self._library, question, self._endpoint.timeout), **self._call)
        tensors = {name: result.as_numpy(name) for name in question.outputs}
        response = result.get_response()
        return InferResult(tensors, int(response["model_version"] if self._endpoint.http else response.model_version))

    async def _contract(self, model: str) -> ModelInfo:
        known = self._agreed.get(model)
        if known is None:
            known = self._agreed[model] = await self.contract(model)
        return known

    async def _classify(
        self, model: str, chunk: list[tuple[int, Source]], top: int, priority: int
    ) -> list[ClassifyResult]:
        for _ in range(ATTEMPTS):
            contract = await self._contract(model)
            prepared = await asyncio.to_thread(Prepared.of, chunk, contract)
            question = prepared.question(contract, priority)
            try:
                reply = None if question is None else await self._persist(question)
                return prepared.outcomes(contract, reply, top)
            except UnknownModelError:
                self._agreed.pop(model, None)
        raise unsteady(self.url, model)

    async def _classify_encoded(
        self, model: str, position: int, source: Source, top: int, priority: int
    ) -> ClassifyResult:
        name = name_of(source, position)
        try:
            encoded = await asyncio.to_thread(encoded_bytes, source, name)
            reply = await self._persist(encoded_request(model, encoded, top, priority))
        except DataError as exc:
            return ClassifyResult(name, error=exc)
        except RefusedError as exc:
            return ClassifyResult(name, error=DataError(f"{name}: {exc.what}"))
        return ClassifyResult(name, labelled(reply), reply.version)

    async def _persist(self, question: InferRequest) -> InferResult:
        deadline = time.monotonic() + self._endpoint.timeout
        for pause in RETRY_PAUSES:
            try:
                return await self._infer(question)
            except UnavailableError:
                if time.monotonic() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
        return await self._infer(question)


async def _in_order(work: Iterable[Coroutine[Any, Any, Result]], workers: int) -> AsyncGenerator[Result]:
    """Results in the order of the work, of which at most `workers` go on at a time; none when it is closed."""
    pending: deque[asyncio.Task[Result]] = deque()
    try:
        for one in work:
            pending.append(asyncio.create_task(one))
            if len(pending) == workers:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
