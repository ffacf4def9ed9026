"""Blocking client for the classifiers of a Triton server."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from typing import NoReturn, TypeVar, cast

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.concurrency import ordered_map
from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.core import ClientCore, check_counts
from shrinkserve.serving.client.endpoint import Endpoint, parse_url
from shrinkserve.serving.client.errors import RestrictedError
from shrinkserve.serving.client.images import Source, numbered
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.client.operations import (
    Compute,
    Flow,
    InferRequest,
    InferResult,
    LoadRequest,
    ModelStatistics,
    Operation,
    Pause,
    ReadyRequest,
    UnloadRequest,
)
from shrinkserve.serving.client.prediction import ClassifyResult, Floats, Prediction, chunks
from shrinkserve.serving.client.shared_memory import SharedMemoryTransport
from shrinkserve.serving.client.transport import Transport, connect

T = TypeVar("T")
_LEFT_BEHIND: list[Transport] = []
"""Connections of parent processes. They are kept, since a destructor would end them for the parent, too."""


class Client:
    """Client for a Triton server, over HTTP or gRPC; a context manager, safe to share between threads.

    After a fork the child opens new connections. Models are known by their public name, e.g. ``digits`` for
    ``digits_classifier``, or by the name that Triton has for them.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT`` (``https``, ``grpcs`` with TLS).
        timeout: seconds that one request may take.
        contract: hash of the only preprocessing that is accepted (`Preprocess.fingerprint`). By default any is, as
            images are prepared as the model's own description says.
        token: for the requests that the server restricts.
        shared_memory: send images to a server on this machine in system shared memory; the server must allow it.
        insecure: allow sending the token without TLS to another machine.

    Raises:
        ConfigError: an option is invalid.

    Example:
        ```python
        with Client("grpc://127.0.0.1:8001") as client:
            for label, probability in client.classify(["cat.jpg", "dog.jpg"]):
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
        shared_memory: bool = False,
        insecure: bool = False,
    ) -> None:
        self.url = url
        self._endpoint = parse_url(url, timeout, token, shared_memory=shared_memory, insecure=insecure)
        self._core = ClientCore(self._endpoint, contract)
        self._opened: tuple[int, Transport] | None = os.getpid(), _connect(self._endpoint)

    def ready(self) -> bool:
        """Return True if a server is there and ready."""
        try:
            return self._perform(ReadyRequest())
        except RequestError:
            return False

    def models(self) -> list[str]:
        """Return the names of the ready models as Triton knows them (`shrinkserve.serving.names`), sorted.

        Raises:
            RequestError: the server is not reachable.
        """
        return self._run(self._core.models())

    def only_model(self) -> str:
        """Return the public name of the only model that is served.

        Raises:
            RequestError: the server is not reachable, or it serves none or several models.
        """
        return self._run(self._core.only_model())

    def model_info(self, model: str) -> ModelInfo:
        """Return what a model expects and what its outputs mean.

        Raises:
            RequestError: the server is not reachable, or it has no such model, or the model is not from this package.
        """
        return self._run(self._core.model_info(model))

    def classify(self, sources: Iterable[Source], model: str | None = None) -> list[Prediction]:
        """Return the most probable class of each image.

        Args:
            sources: paths, encoded images (bytes or binary files), Pillow images, or arrays uint8 [H, W, 3]. Each is
                cropped and resized as the model's description says.
            model: its name; may be omitted when only one is served.

        Raises:
            DataError: an image cannot be read.
            RequestError: as for `infer`.
        """
        return [predictions[0] for predictions in self.classify_topk(sources, model, top=1)]

    def classify_topk(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5
    ) -> list[list[Prediction]]:
        """Return the `top` most probable classes of each image, best first. Otherwise like `classify`."""
        ranked = []
        with closing(self.stream(sources, model, top=top)) as results:
            for result in results:
                if result.error is not None:
                    raise result.error
                ranked.append(result.predictions)
        return ranked

    def stream(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 4, priority: int = 0
    ) -> Generator[ClassifyResult]:
        """Classify any number of images in bounded memory. An image that cannot be read does not end the stream.

        Args:
            sources: as for `classify`; taken as they are needed.
            model: its name; may be omitted when only one is served.
            top: number of classes per image.
            workers: number of threads that decode images and wait for replies.
            priority: 1 is served first; 0 for the model's default.

        Yields:
            Results in the order of the images.

        Raises:
            RequestError: as for `infer`.
        """
        check_counts(top=top, workers=workers, priority=priority)
        name = self._run(self._core.choose(model))
        size = self._run(self._core.batch_size(name))

        def work(chunk: list[tuple[int, Source]]) -> list[ClassifyResult]:
            return self._run(self._core.classify(name, chunk, top, priority))

        with closing(ordered_map(work, chunks(numbered(sources), size), workers, wait=False)) as results:
            for chunk in results:
                yield from chunk

    def stream_encoded(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 8, priority: int = 0
    ) -> Generator[ClassifyResult]:
        """Classify images that the server decodes, one per request. Otherwise like `stream`.

        Args:
            sources: paths, encoded images (bytes) or binary files.
            model: its name; the server must have its ensemble (`shrinkserve repo add-jpeg`).
            top: number of classes per image.
            workers: number of requests at the same time.
            priority: 1 is served first; 0 for the model's default.

        Yields:
            Results in the order of the images.

        Raises:
            RequestError: as for `infer`.
        """
        check_counts(top=top, workers=workers, priority=priority)
        name = self._run(self._core.ensemble(model))

        def work(item: tuple[int, Source]) -> ClassifyResult:
            return self._run(self._core.classify_encoded(name, *item, top, priority))

        with closing(ordered_map(work, numbered(sources), workers, wait=False)) as results:
            yield from results

    def infer(
        self, model: str, images: Pixels, *, version: int | None = None, priority: int = 0
    ) -> tuple[Floats, Floats]:
        """Return logits and probabilities, float32 [N, classes] each, of prepared images.

        Unlike `classify` it does not repeat a request that got no reply.

        Args:
            model: its name.
            images: uint8 [N, S, S, 3], RGB in the network's size, N at most the model's ``max_batch_size``.
            version: of the model; the active one by default.
            priority: 1 is served first; 0 for the model's default.

        Raises:
            RequestError: the server is not reachable, or it has no such model, or it refuses the images.
        """
        return self._run(self._core.infer(model, images, version, priority))

    def send(self, request: InferRequest) -> InferResult:
        """Send one inference request as it is and return its result.

        Raises:
            RequestError: as for `infer`.
        """
        return self._run(self._core.send(request))

    def statistics(self, model: str) -> ModelStatistics:
        """Return Triton's statistics of a model since it was loaded: counts, and nanoseconds in each phase.

        Args:
            model: its name. For a public name, the statistics of the ensemble if there is one, else the classifier's.

        Raises:
            RequestError: the server is not reachable, or it has no such model.
        """
        return self._run(self._core.statistics(model))

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load a model, or load it again. The one that was loaded keeps running until the new one is ready.

        Args:
            model: the name that Triton has for it.
            config: with `files`, what to load instead of what the repository contains under that name.
            files: contents by their path in the model's folder, e.g. ``1/model.onnx``.

        Raises:
            RequestError: the server is not reachable, or it does not allow changes, or the model does not load. Then
                a model of that name that was loaded keeps running.
        """
        self._perform(LoadRequest(model, config, files or {}))

    def unload(self, model: str) -> None:
        """Unload a model.

        Args:
            model: the name that Triton has for it.

        Raises:
            RequestError: the server is not reachable, or it does not allow changes.
        """
        self._perform(UnloadRequest(model))

    def close(self) -> None:
        """Close the connections. Requests of other threads fail, and later ones are refused."""
        opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client cannot be pickled; create one in each process")

    def _run(self, flow: Flow[T]) -> T:
        try:
            operation = next(flow)
            while True:
                try:
                    result = self._perform(operation)
                except (RequestError, DataError) as exc:
                    operation = flow.throw(exc)
                else:
                    operation = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _perform(self, operation: Operation[T]) -> T:
        if isinstance(operation, Compute):
            return cast("T", operation.function())
        if isinstance(operation, Pause):
            return cast("T", time.sleep(operation.seconds))
        try:
            return self._transport().send(operation)
        except RestrictedError:
            if not self._endpoint.restrict(operation):
                raise
        return self._transport().send(operation)

    def _transport(self) -> Transport:
        """Return the transport of this process."""
        opened = self._opened
        if opened is None:
            raise RequestError(f"{self.url}: this client is closed", hint="create another one")
        process, transport = opened
        if process != os.getpid():
            _LEFT_BEHIND.append(transport)
            transport = _connect(self._endpoint)
            self._opened = os.getpid(), transport
        return transport


def _connect(endpoint: Endpoint) -> Transport:
    transport = connect(endpoint)
    return SharedMemoryTransport(transport) if endpoint.shared_memory else transport
