"""Classify images with a server, or with a model in this process: the function of the command `predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from shrinkserve.artifact import CARD, read_card
from shrinkserve.concurrency import ordered_map
from shrinkserve.errors import ArtifactError, ConfigError, check_range
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.opening import open_artifact
from shrinkserve.runtimes.predictor import Images
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.client.images import Source, numbered
from shrinkserve.serving.client.prediction import ClassifyResult, Floats, Prepared, chunks

URL = "grpc://127.0.0.1:8001"
BATCH = 8
"""Images in a run of a model in this process."""
WORKERS = 4
"""Threads that decode images for a model in this process."""


def predict(
    images: Iterable[Source],
    *,
    url: str | None = None,
    model: StrPath | None = None,
    top: int = 5,
    timeout: float = 60.0,
    priority: int = 0,
    encoded: bool = False,
    min_confidence: float = 0.0,
) -> Iterator[ClassifyResult]:
    """Classify any number of images in bounded memory. An image that cannot be read does not end the iteration.

    Args:
        images: paths, encoded images, Pillow images or arrays, as for `Client.classify`; taken as they are needed.
            `expand_images` expands folders and patterns.
        url: of a server, ``grpc://HOST:PORT`` or ``http://HOST:PORT``.
        model: name of a served model; may be omitted when only one is served. A run folder, a version folder or an
            ONNX file runs in this process instead, if no `url` is given.
        top: number of classes per image.
        timeout: seconds that one request may take.
        priority: 1 is served first; 0 for the model's default.
        encoded: let the server decode the images.
        min_confidence: least probability of the best class; results below it are `unsure`.

    Yields:
        Results in the order of the images.

    Raises:
        ConfigError: an option is out of range, or does not fit a model in this process.
        ArtifactError: the model in this process cannot be loaded.
        DataError: `images` is one image, or nothing that can be iterated over.
        RequestError: the server is not reachable, or it refuses a request.

    Example:
        ```python
        for result in predict(["cat.jpg"], model="model_repository/digits_classifier/1", top=1):
            print(result.name, result.predictions)
        ```
    """
    check_range(0, 1, min_confidence=min_confidence)
    if url is None and model is not None and _is_path(model):
        if encoded or priority:
            raise ConfigError("--encoded and --priority", expected="a server (--url)", found=f"the model {model}")
        yield from _marked(_predict_here(images, Path(model), top), min_confidence)
        return
    with Client(url or URL, timeout=timeout) as client:
        stream = client.stream_encoded if encoded else client.stream
        results = stream(images, None if model is None else os.fspath(model), top=top, priority=priority)
        yield from _marked(results, min_confidence)


def _marked(results: Iterable[ClassifyResult], least: float) -> Iterator[ClassifyResult]:
    """Mark results whose best class has a probability below `least` as unsure."""
    for result in results:
        unsure = bool(result.predictions) and result.predictions[0].probability < least
        yield replace(result, unsure=True) if unsure else result


def _is_path(model: StrPath) -> bool:
    """Return True if a model is given by its path. A folder may have the name of a served model."""
    if not isinstance(model, str) or "/" in model or model.endswith((".onnx", ".plan")):
        return True
    return Path(model.rpartition("@")[0] or model, CARD).is_file()


def _predict_here(images: Iterable[Source], path: Path, top: int) -> Iterator[ClassifyResult]:
    check_range(1, top=top)
    network = open_artifact(path)
    preprocess = getattr(network, "preprocess", None)
    if preprocess is None:
        hint = "give the version folder that `shrinkserve export` wrote"
        raise ArtifactError(f"{path}: does not describe the preprocessing of its images", hint=hint)

    temperature = _temperature(path)

    def probabilities(pixels: Images) -> Floats:
        if isinstance(network, OnnxModel):
            return network.infer(pixels)["probabilities"]
        return softmax(network.predict(pixels) / temperature)

    def prepare(chunk: list[tuple[int, Source]]) -> Prepared:
        return Prepared.of(chunk, preprocess)

    with closing(ordered_map(prepare, chunks(numbered(images), BATCH), WORKERS, wait=False)) as batches:
        for prepared in batches:
            table = None if prepared.batch is None else probabilities(prepared.batch)
            yield from prepared.results(table, network.classes, top, model=str(path), version=0)


def _temperature(path: Path) -> float:
    """Return the temperature in the card of a version, for its folder, one of its engines or its files; else 1."""
    for folder in (path, path.parent / path.name.partition("@")[0], path.parent):
        if (folder / CARD).is_file():
            return read_card(folder, verify=False).details.get("temperature", 1.0)
    return 1.0


def softmax(logits: Floats) -> Floats:
    """Return the probabilities of logits, row by row.

    Example:
        >>> softmax(np.array([[0.0, 0.0]], np.float32)).tolist()
        [[0.5, 0.5]]
    """
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
