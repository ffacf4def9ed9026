"""What a served model says about itself: all that a client needs that has nothing but a URL."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.errors import DataError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config


@dataclass(frozen=True)
class Contract:
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


def from_config(config: pb.ModelConfig, classes: list[str]) -> Contract:
    """Read the contract out of a model's configuration; the class names come from elsewhere.

    Raises:
        RequestError: the model was not published by this package, or contradicts itself.
    """
    own = model_config.parameters(config)
    try:
        preprocess = Preprocess.from_dict(json.loads(own["preprocess"]))
    except (KeyError, ValueError, DataError):
        raise RequestError(
            f"model {config.name}: does not say how its images are prepared",
            expected=f"a config parameter {model_config.PREFIX}preprocess",
            do="serve a model that `shrinkserve export` wrote",
        ) from None
    if own.get("contract") != preprocess.contract:
        raise RequestError(
            f"model {config.name}: its preprocessing is not the one of its contract",
            expected=own.get("contract"),
            found=preprocess.contract,
            do="its configuration was edited, or written by another version of this package: export it again",
        )
    return Contract(
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
