"""From images to requests, and from replies to class names with probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import LOGITS, PROBABILITIES
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels, Preprocess
from shrinkserve.serving.client.errors import invalid_reply
from shrinkserve.serving.client.images import Source, name_of, prepare
from shrinkserve.serving.client.operations import InferRequest, InferResult
from shrinkserve.serving.model_config import ENCODED

Floats = npt.NDArray[np.float32]
Item = TypeVar("Item")


class Prediction(NamedTuple):
    """Class name and its probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True)
class ClassifyResult:
    """Result of one image.

    Attributes:
        name: its path, or ``image N``.
        predictions: the most probable classes, best first; empty after an error.
        version: of the model that classified it; 0 after an error or without a version.
        error: why the image could not be classified.
        model: public name of the model.
        unsure: True if the best class is less probable than the caller requires.
    """

    name: str
    predictions: list[Prediction] = field(default_factory=list)
    version: int = 0
    error: DataError | None = None
    model: str = ""
    unsure: bool = False


class Prepared(NamedTuple):
    """Names of some images, and for each its pixels or the reason why it has none."""

    names: list[str]
    pixels: list[Pixels | DataError]

    @classmethod
    def of(cls, sources: list[tuple[int, Source]], preprocess: Preprocess) -> Prepared:
        """Read, crop and resize numbered images."""
        names = [name_of(source, position) for position, source in sources]
        pixels: list[Pixels | DataError] = []
        for name, (_, source) in zip(names, sources, strict=True):
            try:
                pixels.append(prepare(source, preprocess, name))
            except DataError as exc:
                pixels.append(exc)
        return cls(names, pixels)

    @property
    def batch(self) -> Pixels | None:
        """Return the pixels of the readable images; None without any."""
        good = [image for image in self.pixels if not isinstance(image, DataError)]
        return np.stack(good) if good else None

    def results(
        self, probabilities: Floats | None, classes: Sequence[str], top: int, *, model: str, version: int
    ) -> list[ClassifyResult]:
        """Return predictions and errors in the order of the images.

        Args:
            probabilities: [readable images, classes]; None without readable images.
            classes: their names.
            top: number of classes per image.
            model: public name of the model.
            version: of the model.
        """
        rows = iter(() if probabilities is None else probabilities)
        return [
            ClassifyResult(name, error=image, model=model)
            if isinstance(image, DataError)
            else ClassifyResult(name, best(next(rows), classes, top), version, model=model)
            for name, image in zip(self.names, self.pixels, strict=True)
        ]


def probabilities_of(url: str, result: InferResult, shape: tuple[int, int]) -> Floats:
    """Return the probabilities of a reply.

    Raises:
        InvalidReplyError: they do not have the shape, or are not numbers from 0 to 1.
    """
    table = result.tensors[PROBABILITIES]
    if table.dtype != np.float32 or table.shape != shape:
        raise invalid_reply(url, f"probabilities of shape {list(table.shape)}, expected {list(shape)}")
    if not (np.isfinite(table) & (table >= 0) & (table <= 1 + 1e-3)).all():
        raise invalid_reply(url, "probabilities that are not numbers from 0 to 1")
    return table


def pixels_request(model: str, images: Pixels, version: int | None, priority: int) -> InferRequest:
    """Return the request for logits and probabilities of pixels.

    Raises:
        DataError: the pixels are not uint8.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise DataError("images", expected="a uint8 array [N, size, size, 3]", found=found)
    chosen = "" if version is None else str(version)
    return InferRequest(model, images, {LOGITS: 0, PROBABILITIES: 0}, chosen, priority)


def logits_and_probabilities(url: str, request: InferRequest, result: InferResult) -> tuple[Floats, Floats]:
    """Return the two outputs of a reply to `pixels_request`.

    Raises:
        InvalidReplyError: they are not a row of float32 per image.
    """
    logits, probabilities = result.tensors[LOGITS], result.tensors[PROBABILITIES]
    for output in (logits, probabilities):
        if output.dtype != np.float32 or output.ndim != 2 or len(output) != len(request.images):
            raise invalid_reply(url, f"{output.dtype} outputs of shape {list(output.shape)}")
    return logits, probabilities


def encoded_request(model: str, encoded: bytes, top: int, priority: int) -> InferRequest:
    """Return the request for the `top` classes of an encoded image, which the server decodes."""
    image = np.frombuffer(encoded, np.uint8)[None]
    return InferRequest(model, image, {PROBABILITIES: top}, priority=priority, tensor=ENCODED)


def labelled(url: str, result: InferResult) -> list[Prediction]:
    """Return the predictions of a reply to `encoded_request`, best first; the server names the classes.

    Raises:
        InvalidReplyError: an entry is not ``value:index:label`` with a number from 0 to 1 and a name.
    """
    predictions = []
    for entry in result.tensors[PROBABILITIES].ravel():
        try:
            value, _, label = entry.decode().split(":", 2)
            # A labels.txt that was edited on Windows ends its lines in CR and may begin with a mark.
            prediction = Prediction(label.strip("\r\ufeff"), float(value))
        except (AttributeError, ValueError):
            raise invalid_reply(url, f"a class without a name: {entry!r}; check the model's labels.txt") from None
        if not prediction.label or not 0 <= prediction.probability <= 1 + 1e-3:
            raise invalid_reply(url, f"not a class name with a probability: {entry!r}")
        predictions.append(prediction)
    return predictions


def best(probabilities: Floats, classes: Sequence[str], top: int) -> list[Prediction]:
    """Return the `top` most probable classes, best first; of equal ones the first in the order of the logits."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [Prediction(classes[index], float(probabilities[index])) for index in order]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
