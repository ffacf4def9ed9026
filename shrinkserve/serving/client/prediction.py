"""Images in, class names and probabilities out: what a client does around a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import LOGITS, PROBABILITIES
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels
from shrinkserve.serving.client.images import Source, name_of, prepare
from shrinkserve.serving.client.model_info import ModelInfo
from shrinkserve.serving.client.transport import InferRequest, InferResult
from shrinkserve.serving.model_config import ENCODED

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prediction(NamedTuple):
    """One class and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class ClassifyResult:
    """What became of one image.

    Attributes:
        name: its path, or ``image N``.
        predictions: the most probable classes, best first; empty after a fault.
        version: of the model that answered; 0 after a fault.
        fault: why the image could not be read.
    """

    name: str
    predictions: list[Prediction] = field(default_factory=list)
    version: int = 0
    error: DataError | None = None


class Prepared(NamedTuple):
    """A chunk of images: a name each, and each one's pixels or why it has none."""

    names: list[str]
    pixels: list[Pixels | DataError]

    @classmethod
    def of(cls, sources: list[tuple[int, Source]], contract: ModelInfo) -> Prepared:
        """Read, crop and resize numbered images; a fault takes the place of its image."""
        names = [name_of(source, position) for position, source in sources]
        pixels: list[Pixels | DataError] = []
        for name, (_, source) in zip(names, sources, strict=True):
            try:
                pixels.append(prepare(source, contract.preprocess, name))
            except DataError as exc:
                pixels.append(exc)
        return cls(names, pixels)

    def question(self, contract: ModelInfo, priority: int) -> InferRequest | None:
        """The request for the images that could be read, of the version that they were prepared for.

        None when there is none.
        """
        good = [image for image in self.pixels if not isinstance(image, DataError)]
        if not good:
            return None
        return InferRequest(contract.model, np.stack(good), {PROBABILITIES: 0}, str(contract.version), priority)

    def outcomes(self, contract: ModelInfo, reply: InferResult | None, top: int) -> list[ClassifyResult]:
        """Answers and faults, in the order of the images."""
        rows = iter(reply.tensors[PROBABILITIES] if reply else ())
        return [
            ClassifyResult(name, error=image)
            if isinstance(image, DataError)
            else ClassifyResult(name, best(next(rows), contract.classes, top), contract.version)
            for name, image in zip(self.names, self.pixels, strict=True)
        ]


def pixels_request(model: str, images: Pixels, version: int | None, priority: int) -> InferRequest:
    """The request for logits and probabilities of pixels; from the version that answers when None."""
    chosen = "" if version is None else str(version)
    return InferRequest(model, images, {LOGITS: 0, PROBABILITIES: 0}, chosen, priority)


def encoded_request(model: str, encoded: bytes, top: int, priority: int) -> InferRequest:
    """The request for the `top` classes of an encoded image, which the server decodes."""
    image = np.frombuffer(encoded, np.uint8)[None]
    return InferRequest(model, image, {PROBABILITIES: top}, priority=priority, tensor=ENCODED)


def labelled(reply: InferResult) -> list[Prediction]:
    """The predictions of a reply to `encoded_question`, best first; the server names the classes."""
    entries = [entry.decode().split(":", 2) for entry in reply.tensors[PROBABILITIES].ravel()]
    return [Prediction(label[0] if label else index, float(value)) for value, index, *label in entries]


def best(probabilities: npt.NDArray[np.float32], classes: list[str], top: int) -> list[Prediction]:
    """The `top` most probable classes, best first; of equal ones the first in the order of the logits."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [Prediction(classes[index], float(probabilities[index])) for index in order]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def in_order(work: Callable[[Item], Result], items: Iterable[Item], pool: Executor, workers: int) -> Iterator[Result]:
    """`work` on every item in the threads of `pool`, at most `workers` at a time; results in the order of the items.

    No more than ``workers + 1`` items are taken before their results are wanted, so memory stays bounded whatever
    the number of items. No work goes on when the iterator is closed.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(pending) == workers:
                yield pending.popleft().result()
            pending.append(pool.submit(work, item))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
