"""Logic of the sync and the async client: generators that yield operations and receive their results.

A driver performs each operation, sends its result into the generator, or throws its error into it:

```
core.classify(...)  --InferRequest-->  driver  --bytes-->  server
                    <--InferResult---          <--bytes--
```
"""

from __future__ import annotations

import io
import math
import time
from functools import cache, partial
from typing import TypeVar

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import PROBABILITIES
from shrinkserve.errors import DataError, RequestError, check_range
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.endpoint import Endpoint
from shrinkserve.serving.client.errors import (
    FailedError,
    RefusedError,
    UnavailableError,
    UnknownModelError,
    invalid_reply,
    no_encoded,
    only,
    unknown_model,
    unsteady,
)
from shrinkserve.serving.client.images import Source, encoded_bytes, name_of
from shrinkserve.serving.client.model_info import ModelInfo, from_config
from shrinkserve.serving.client.operations import (
    Compute,
    ConfigRequest,
    Flow,
    InferRequest,
    InferResult,
    ModelStatistics,
    Operation,
    Pause,
    StatisticsRequest,
    perform,
)
from shrinkserve.serving.client.prediction import (
    ClassifyResult,
    Floats,
    Prepared,
    encoded_request,
    labelled,
    logits_and_probabilities,
    pixels_request,
    probabilities_of,
)
from shrinkserve.serving.model_config import ENCODED
from shrinkserve.serving.names import CANDIDATE, PREPROCESS, classifier_name, public_name, public_names

T = TypeVar("T")
RETRY_PAUSES = (0.2, 0.8, 3.0)
"""Seconds before each further attempt when a server that was reached before is unavailable."""
ATTEMPTS = 3
"""Attempts of a request whose model is replaced meanwhile."""
MAX_BATCH = 32
"""Most images in a request of `Client.stream`, whatever the model allows: larger requests only cost memory."""
MAX_BATCH_BYTES = 64 << 20
"""Most bytes of images in a request of `Client.stream`."""


class ClientCore:
    """Logic of a client and what it remembers about the server.

    Args:
        endpoint: of the server.
        expected: hash of the only preprocessing that is accepted; None accepts any.
    """

    def __init__(self, endpoint: Endpoint, expected: str | None) -> None:
        self.url = endpoint.url
        self._timeout = endpoint.timeout
        self._expected = expected
        self._reached = False
        self._only = ""
        self._names: dict[str, str] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._ensembles: set[str] = set()

    def models(self) -> Flow[list[str]]:
        """Return the names of the models that are ready, sorted."""
        # Not from the repository index: that belongs to the model control API, which servers restrict.
        served = yield from self.persist(StatisticsRequest())
        return sorted({one["name"] for one in served})

    def only_model(self) -> Flow[str]:
        """Return the name of the only model."""
        names = public_names((yield from self.models()))
        self._only = only(self.url, names)
        return self._only

    def choose(self, model: str | None) -> Flow[str]:
        """Return `model`, or for None the name of the only model, which is remembered."""
        if model is not None:
            return model
        return self._only or (yield from self.only_model())

    def model_info(self, model: str) -> Flow[ModelInfo]:
        """Return the current description of a model, given any of its names."""
        info = self._infos[model] = from_config((yield from self._config(model)), self._expected)
        return info

    def known_info(self, model: str) -> Flow[ModelInfo]:
        """Return the description of a model that the last request to it used."""
        return self._infos.get(model) or (yield from self.model_info(model))

    def batch_size(self, model: str) -> Flow[int]:
        """Return how many images a request to a model should have."""
        info = yield from self.known_info(model)
        most = MAX_BATCH_BYTES // math.prod(info.preprocess.shape)
        return max(1, min(info.max_batch_size, MAX_BATCH, most))

    def statistics(self, model: str) -> Flow[ModelStatistics]:
        """Return the statistics of the newest ready version of a model."""
        served = yield from self.persist(StatisticsRequest())
        for name in (model, classifier_name(model)):
            found = [one for one in served if one["name"] == name]
            if found:
                return max(found, key=lambda one: int(one["version"]))
        raise unknown_model(self.url, served, model)

    def infer(self, model: str, images: Pixels, version: int | None, priority: int) -> Flow[tuple[Floats, Floats]]:
        """Return logits and probabilities; a request without a reply is not repeated."""
        for _ in range(ATTEMPTS):
            # Pixels were prepared for one preprocessing: they go to the version that is known to have it.
            pinned = version is None and self._expected is not None
            chosen = (yield from self.known_info(model)).version if pinned else version
            name = self._names.get(model) or (yield from self._config(model)).name
            request = pixels_request(name, images, chosen, priority)
            try:
                result = yield from perform(request)
            except UnknownModelError as exc:
                self._forget(model)
                if not pinned:
                    raise (yield from self._unknown(request)) from exc
            else:
                return logits_and_probabilities(self.url, request, result)
        raise unsteady(self.url, model)

    def send(self, request: InferRequest) -> Flow[InferResult]:
        """Return the result of one request, sent once and as it is."""
        try:
            return (yield from perform(request))
        except UnknownModelError as exc:
            raise (yield from self._unknown(request)) from exc

    def classify(
        self, model: str, sources: list[tuple[int, Source]], top: int, priority: int
    ) -> Flow[list[ClassifyResult]]:
        """Return the results of numbered images, in one request."""
        for _ in range(ATTEMPTS):
            info = yield from self.known_info(model)
            prepared = yield from perform(Compute(partial(Prepared.of, sources, info.preprocess)))
            pixels, table = prepared.batch, None
            try:
                if pixels is not None:
                    outputs = {PROBABILITIES: 0}
                    request = InferRequest(info.model, pixels, outputs, str(info.version), priority)
                    result = yield from self.persist(request)
                    table = probabilities_of(self.url, result, (len(pixels), len(info.classes)))
            except UnknownModelError:
                # Another version was published meanwhile, which may have another preprocessing or other classes.
                self._forget(model)
            else:
                name = public_name(info.model)
                return prepared.results(table, info.classes, top, model=name, version=info.version)
        raise unsteady(self.url, model)

    def ensemble(self, model: str | None) -> Flow[str]:
        """Return the name of the model that takes encoded images.

        Raises:
            RequestError: the model takes pixels only.
        """
        name = public_name((yield from self.choose(model)))
        if self._expected is not None:
            yield from self.known_info(name)  # compares the preprocessing
        if name not in self._ensembles:
            if not (yield from self._decodes(name)):
                raise no_encoded(self.url, name)
            self._ensembles.add(name)
        return name

    def _decodes(self, name: str) -> Flow[bool]:
        """Return True if the model with a public name takes encoded images, False if there is only its classifier."""
        try:
            config = yield from self._fetch(name)
        except UnknownModelError as exc:
            served = yield from self.persist(StatisticsRequest())
            if classifier_name(name) not in {one["name"] for one in served}:
                raise unknown_model(self.url, served, name) from exc
            return False
        if any(one.name == ENCODED for one in config.input):
            return True
        if name.endswith(PREPROCESS):
            raise UnknownModelError(f"{self.url}: of {name.removesuffix(PREPROCESS)} only the preprocessing is loaded")
        return False

    def classify_encoded(
        self, model: str, position: int, source: Source, top: int, priority: int
    ) -> Flow[ClassifyResult]:
        """Return the result of one image that the server decodes."""
        name = name_of(source, position)
        failed = partial(ClassifyResult, name, model=model)
        try:
            encoded = yield from perform(Compute(partial(encoded_bytes, source, name)))
            result = yield from self.persist(encoded_request(model, encoded, top, priority))
            return ClassifyResult(name, labelled(self.url, result), result.version, model=model)
        except DataError as exc:
            return failed(error=exc)
        except RefusedError as exc:
            return failed(error=DataError(exc.what, where=name))
        except FailedError as exc:
            # Some decoders report a damaged image as a failure of the server. Then they still decode another image.
            try:
                yield from perform(encoded_request(model, _sample(), 1, 0))
            except RequestError:
                raise exc from None
            return failed(error=DataError(exc.what, where=name))

    def persist(self, request: Operation[T]) -> Flow[T]:
        """Return the result of a request that changes nothing; repeat it while the server is unavailable.

        A server that was never reached is probably not there: its error is raised at once. A late reply is not
        asked for again, as that would add to the load that made it late.
        """
        deadline = time.monotonic() + self._timeout
        for pause in RETRY_PAUSES:
            try:
                result = yield from perform(request)
            except UnavailableError:
                if not self._reached or time.monotonic() + pause > deadline:
                    raise
            else:
                self._reached = True
                return result
            yield from perform(Pause(pause))
        return (yield from perform(request))

    def _config(self, model: str) -> Flow[pb.ModelConfig]:
        """Return the configuration of a model's classifier and remember its name."""
        names = [model] if model.endswith(CANDIDATE) else [classifier_name(model), model]
        for name in dict.fromkeys(names):
            try:
                config = yield from self._fetch(name)
            except UnknownModelError:
                continue
            if config.name != name:
                raise invalid_reply(self.url, f"the configuration of {config.name!r} instead of {name!r}")
            self._names[model] = name
            return config
        self._forget(model)
        raise unknown_model(self.url, (yield from self.persist(StatisticsRequest())), model)

    def _fetch(self, name: str) -> Flow[pb.ModelConfig]:
        if "/" in name:  # in the path of a URL it would mean something else
            raise UnknownModelError(f"{self.url}: no model has a slash in its name")
        return (yield from self.persist(ConfigRequest(name)))

    def _unknown(self, request: InferRequest) -> Flow[RequestError]:
        served = yield from self.persist(StatisticsRequest())
        return unknown_model(self.url, served, request.model, request.version)

    def _forget(self, model: str) -> None:
        self._infos.pop(model, None)
        self._names.pop(model, None)
        self._only = ""


def check_counts(*, top: int, workers: int, priority: int) -> None:
    """Check the options of a stream.

    Raises:
        ConfigError: one is out of range.
    """
    check_range(1, top=top, workers=workers)
    check_range(0, priority=priority)


@cache
def _sample() -> bytes:
    """Return a small JPEG that every decoder can decode."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(stream, "JPEG")
    return stream.getvalue()
