"""What a served model says about itself: all that a client needs that has nothing but a URL."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import PROBABILITIES
from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config
from shrinkserve.serving.client.transport import InferRequest, InferResult


@dataclass(frozen=True)
class ModelInfo:
    """The two sides' agreement on a model.

    Attributes:
        model: its name.
        version: the version that answers.
        preprocess: what happens to an image before it is sent.
        classes: class names in the order of the logits.
        weights_sha256: hash of the weights, the same from the checkpoint on.
        precision: of the arithmetic, e.g. ``"float32"``.
        backend: Triton's backend, e.g. ``"onnxruntime"``.
        max_batch_size: most images in one request.
        priority_levels: of the model's queue; 1 is served first, 0 when there is one queue.
    """

    model: str
    version: int
    preprocess: Preprocess
    classes: list[str]
    weights_sha256: str
    precision: str
    backend: str
    max_batch_size: int
    priority_levels: int


def label_request(config: pb.ModelConfig) -> InferRequest:
    """The request whose reply tells the class names: Triton hands out labels with answers only.

    It asks for all classes of a blank image, best first, from the version that `config` is of.
    """
    sizes = {output.name: output.dims[0] for output in config.output}
    blank = np.zeros((1, *config.input[0].dims), np.uint8)
    version = str(model_config.active_version(config))
    return InferRequest(config.name, blank, {PROBABILITIES: sizes[PROBABILITIES]}, version)


def read_labels(reply: InferResult) -> list[str]:
    """Class names in the order of the logits, out of the reply to `label_question`."""
    entries = reply.tensors[PROBABILITIES].ravel()
    names = [str(index) for index in range(len(entries))]
    for entry in entries:
        _, index, *label = entry.decode().split(":", 2)
        if label:
            names[int(index)] = label[0]
    return names


def from_config(config: pb.ModelConfig, classes: list[str], expected: str | None = None) -> ModelInfo:
    """Read the contract out of a model's configuration.

    Args:
        config: as the server says it is.
        classes: names in the order of the logits.
        expected: hash of the only preprocessing that is accepted (`Preprocess.fingerprint`); None accepts any.

    Raises:
        RequestError: the model is no classifier, was not published by this package, contradicts itself, or is not the
            expected one.
    """
    outputs = [output.name for output in config.output]
    if PROBABILITIES not in outputs:
        raise RequestError(
            f"model {config.name}: is no classifier",
            expected=f"an output {PROBABILITIES}",
            found=", ".join(outputs) or "none",
            hint="ask for the model whose part it is",
        )
    own = model_config.parameters(config)
    try:
        preprocess = Preprocess.from_dict(json.loads(own["preprocess"]))
    except (KeyError, ValueError, DataError):
        raise RequestError(
            f"model {config.name}: does not say how its images are prepared",
            expected=f"a config parameter {model_config.PREFIX}preprocess",
            hint="serve a model that `shrinkserve export` wrote",
        ) from None
    if own.get("contract") != preprocess.fingerprint:
        raise RequestError(
            f"model {config.name}: its preprocessing is not the one of its contract",
            expected=own.get("contract"),
            found=preprocess.fingerprint,
            hint="its configuration was edited, or written by another version of this package: export it again",
        )
    if expected not in {None, preprocess.fingerprint}:
        raise RequestError(
            f"model {config.name}: prepares its images in another way than this client was built for",
            expected=f"contract {expected}",
            found=preprocess.fingerprint,
            hint="ask for the model that was meant, or build the client anew",
        )
    return ModelInfo(
        model=config.name,
        version=model_config.active_version(config),
        preprocess=preprocess,
        classes=classes,
        weights_sha256=own.get("weights_sha256", ""),
        precision=own.get("precision", ""),
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        priority_levels=config.dynamic_batching.priority_levels,
    )
