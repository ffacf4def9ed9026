"""The client: what a URL serves, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import LOGITS, PROBABILITIES
from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.errors import (
    RefusedError,
    UnavailableError,
    UnknownModelError,
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
    chunks,
    encoded_request,
    in_order,
    labelled,
    pixels_request,
)
from shrinkserve.serving.client.transport import InferRequest, InferResult, connect, parse_url
from shrinkserve.serving.names import classifier_name, public_name, public_names, resolve_classifier

Floats = npt.NDArray[np.float32]

MAX_BATCH = 32
"""Most images in a request of `Client.stream`, whatever the model takes: larger ones only cost memory."""
RETRY_PAUSES = (0.2, 0.8, 3.0)
"""Seconds before each further attempt at a request that got no answer."""
THREADS = 64
"""Most threads of a client, over all that is asked of it at once; they are started as they are needed."""
ATTEMPTS = 3
"""Times that a question is asked anew because another version was published meanwhile."""


class Client:
    """A Triton server, over HTTP or gRPC; a context manager, and safe to share between threads.

    Threads share one connection over gRPC and have one each over HTTP.

    Args:
        url: ``http://HOST:PORT`` or ``grpc://HOST:PORT`` (``https``, ``grpcs`` with TLS).
        timeout: seconds that one request may take.
        contract: of the preprocessing that the caller was built for (`Preprocess.fingerprint`): a model with another
            one is refused. None takes any, as the model's own contract decides how images are prepared.
        token: for the APIs that the server restricts to those who know it.
        shared_memory: hand images to a server on this machine in system shared memory; the server must allow it.

    Raises:
        ConfigError: not such a URL, or shared memory with a server elsewhere.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        contract: str | None = None,
        token: str | None = None,
        shared_memory: bool = False,
    ) -> None:
        self.url = url
        self._transport = connect(parse_url(url, timeout, token, shared_memory=shared_memory))
        self._timeout = timeout
        self._expected = contract
        # Kept from call to call, since over HTTP a thread has a connection of its own.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="shrinkserve-client")
        self._agreed: dict[str, ModelInfo] = {}
        self._classifiers: dict[str, str] = {}

    def ready(self) -> bool:
        """Whether a server is there and ready."""
        try:
            return self._transport.ready()
        except UnavailableError:
            return False

    def models(self) -> list[str]:
        """Names of the models that are ready as Triton knows them (`shrinkserve.serving.names`), sorted.

        Raises:
            RequestError: the server is not there.
        """
        # Not from the repository index: that belongs to the model control API, which servers close to the public.
        return sorted({one["name"] for one in self._transport.statistics()})

    def contract(self, model: str) -> ModelInfo:
        """What the model expects and what its answers mean.

        Raises:
            RequestError: the server is not there, or has no such model or one of another origin.
        """
        model = self._classifier(model)
        for _ in range(ATTEMPTS):
            try:
                config = self._transport.config(model)
                contract = from_config(config, [], self._expected)
                return replace(contract, classes=read_labels(self._transport.infer(label_request(config))))
            except UnknownModelError as exc:
                if model not in self.models():
                    raise self._unknown(model) from exc
                # Its version went between the two requests, as another was published.
        raise unsteady(self.url, model)

    def classify(self, sources: Iterable[Source], model: str | None = None) -> list[Prediction]:
        """The most probable class of each image.

        Args:
            sources: paths, encoded images (bytes), or arrays uint8 [H, W, 3] of any size; each is cropped and
                resized as the model's contract says.
            model: its name; may be left out when only one is served.

        Raises:
            DataError: an image that cannot be read.
            RequestError: as `infer`.
        """
        return [predictions[0] for predictions in self.rank(sources, model, top=1)]

    def rank(self, sources: Iterable[Source], model: str | None = None, *, top: int = 5) -> list[list[Prediction]]:
        """As `classify`, but the `top` most probable classes of each image, best first."""
        ranked = []
        for outcome in self.stream(sources, model, top=top):
            if outcome.error is not None:
                raise outcome.error
            ranked.append(outcome.predictions)
        return ranked

    def stream(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 4, priority: int = 0
    ) -> Iterator[ClassifyResult]:
        """Classify any number of images in bounded memory: outcomes in the order of the images, faults among them.

        Args:
            sources: as in `classify`; taken as they are needed.
            model: its name; may be left out when only one is served.
            top: how many classes of each image.
            workers: threads that decode images and await answers, at most `THREADS`.
            priority: 1 is served first; 0 for the model's default.

        Raises:
            RequestError: as `infer`.
        """
        name = model or self.only_model()
        batch = min(self._contract(name).max_batch_size or 1, MAX_BATCH)

        def work(chunk: list[tuple[int, Source]]) -> list[ClassifyResult]:
            return self._classify(name, chunk, top, priority)

        for outcomes in in_order(work, chunks(numbered(sources), batch), self._threads, workers):
            yield from outcomes

    def stream_encoded(
        self, sources: Iterable[Source], model: str | None = None, *, top: int = 5, workers: int = 8, priority: int = 0
    ) -> Iterator[ClassifyResult]:
        """As `stream`, but the server decodes: images travel as they are encoded, one a request.

        Args:
            sources: paths or encoded images (bytes).
            model: its name; the server must have its ensemble (`shrinkserve repo add-jpeg`).
            top: how many classes of each image.
            workers: requests under way at once.
            priority: 1 is served first; 0 for the model's default.

        Raises:
            RequestError: as `infer`.
        """
        name = public_name(model or self.only_model())
        if self._expected is not None:
            self._contract(name)
        if not {name, classifier_name(name)} <= set(self.models()):
            raise no_encoded(self.url, name)

        def work(item: tuple[int, Source]) -> ClassifyResult:
            position, source = item
            label = name_of(source, position)
            try:
                reply = self._persist(encoded_request(name, encoded_bytes(source, label), top, priority))
            except DataError as exc:
                return ClassifyResult(label, error=exc)
            except RefusedError as exc:  # the server is there, and could not decode this one
                return ClassifyResult(label, error=DataError(f"{label}: {exc.what}"))
            return ClassifyResult(label, labelled(reply), reply.version)

        yield from in_order(work, numbered(sources), self._threads, workers)

    def only_model(self) -> str:
        """The name of the one model that is served.

        Raises:
            RequestError: the server is not there, or serves none or several.
        """
        return only(self.url, public_names(self.models()))

    def _classifier(self, model: str) -> str:
        """The name of the part of a model that takes pixels."""
        if model not in self._classifiers:
            served = self.models()
            found = resolve_classifier(model, served)
            if found not in served:
                return found
            self._classifiers[model] = found
        return self._classifiers[model]

    def _contract(self, model: str) -> ModelInfo:
        known = self._agreed.get(model)
        if known is None:
            known = self._agreed[model] = self.contract(model)
        return known

    def _classify(self, model: str, chunk: list[tuple[int, Source]], top: int, priority: int) -> list[ClassifyResult]:
        for _ in range(ATTEMPTS):
            contract = self._contract(model)
            prepared = Prepared.of(chunk, contract)
            question = prepared.question(contract, priority)
            try:
                reply = None if question is None else self._persist(question)
                return prepared.outcomes(contract, reply, top)
            except UnknownModelError:
                # Another version was published meanwhile, which may prepare images or name classes in another way.
                self._agreed.pop(model, None)
        raise unsteady(self.url, model)

    def _persist(self, question: InferRequest) -> InferResult:
        # An inference changes nothing, so asking again is safe where no answer came; one that was late is not
        # asked again, as that would only add to the load that made it late.
        deadline = time.monotonic() + self._timeout
        for pause in RETRY_PAUSES:
            try:
                return self._transport.infer(question)
            except UnavailableError:
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
        return self._transport.infer(question)

    def infer(
        self, model: str, images: Pixels, *, version: int | None = None, priority: int = 0
    ) -> tuple[Floats, Floats]:
        """Have images classified.

        Args:
            model: its name.
            images: uint8 [N, S, S, 3], RGB at the network's size, N at most the model's ``max_batch_size``.
            version: of the model; the one that answers when None.
            priority: 1 is served first; 0 for the model's default.

        Returns:
            Logits and probabilities, float32 [N, classes] each.

        Raises:
            RequestError: the server is not there, went away, has no such model or refuses the images.
        """
        for _ in range(ATTEMPTS):
            # Pixels were prepared by one contract: they go to the version that is known to have it.
            pinned = version is None and self._expected is not None
            chosen = self._contract(model).version if pinned else version
            question = pixels_request(self._classifier(model), images, chosen, priority)
            try:
                reply = self._transport.infer(question)
                return reply.tensors[LOGITS], reply.tensors[PROBABILITIES]
            except UnknownModelError as exc:
                if not pinned:
                    raise self._unknown(question.model, question.version) from exc
                self._agreed.pop(model, None)
        raise unsteady(self.url, model)

    def send(self, question: InferRequest) -> InferResult:
        """Send one request as it is; `infer` and what the server says of its answer.

        Raises:
            RequestError: as `infer`.
        """
        try:
            return self._transport.infer(question)
        except UnknownModelError as exc:
            raise self._unknown(question.model, question.version) from exc

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own account of a model: counts and nanoseconds in queue and computation since it was loaded.

        Returns:
            ``model_stats`` of Triton's statistics extension: ``inference_count``, ``inference_stats``,
            ``batch_stats`` and so on; fields that are zero may be missing.

        Raises:
            RequestError: the server is not there or has no such model.
        """
        try:
            return max(self._transport.statistics(model), key=lambda one: int(one["version"]))
        except UnknownModelError as exc:
            raise self._unknown(model) from exc

    def load(self, model: str, config: pb.ModelConfig | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Have the server load a model, or load it again; the one that was loaded answers until the new one is ready.

        Args:
            model: its name.
            config: with `files`, what to load instead of what the repository holds under that name.
            files: contents by their path in the model's folder, e.g. ``1/model.onnx``.

        Raises:
            RequestError: the server is not there, does not let its models be changed, or the model does not load;
                one of that name that was loaded goes on answering.
        """
        self._transport.load(model, config, files)

    def unload(self, model: str) -> None:
        """Have the server unload a model once it has answered what it was asked.

        Raises:
            RequestError: as `load`.
        """
        self._transport.unload(model)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unknown(self, model: str, version: str = "") -> RequestError:
        return unknown(self.url, self._transport.statistics(), model, version)
