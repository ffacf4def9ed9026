"""Description of a served classifier, read and checked from the server's configuration of it."""

from __future__ import annotations

from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, PROBABILITIES
from shrinkserve.errors import ArtifactError, RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config
from shrinkserve.serving.client.errors import shown

MAX_BATCH_SIZE = 4096
"""Largest batch size of a configuration that is accepted."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a served classifier.

    Attributes:
        model: its name.
        version: the active version.
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


def from_config(config: pb.ModelConfig, expected: str | None = None) -> ModelInfo:
    """Read and check the configuration of a classifier.

    Args:
        config: as the server sent it.
        expected: hash of the only preprocessing that is accepted (`Preprocess.fingerprint`); None accepts any.

    Raises:
        RequestError: the model is no classifier, was not published by this package, contradicts itself, or has
            another preprocessing than the expected one.
    """
    name = shown(config.name)
    outputs = {output.name: list(output.dims) for output in config.output}
    if PROBABILITIES not in outputs or LOGITS not in outputs:
        raise RequestError(
            f"model {name} is not a classifier of this package",
            expected=f"outputs {LOGITS} and {PROBABILITIES}",
            found=shown(", ".join(outputs)) or "none",
            hint="give the name of the classifier (--model)",
        )
    own = model_config.parameters(config)
    try:
        preprocess, classes = model_config.preprocess_of(config), model_config.class_names(config)
    except ArtifactError as exc:
        raise RequestError(shown(exc.what), expected=exc.expected, hint=exc.hint) from exc
    _check_contract(name, preprocess, own.get("contract", "none"), expected)
    versions = config.version_policy.specific.versions
    valid = {
        "input": [(one.name, list(one.dims)) for one in config.input] == [(INPUT, list(preprocess.shape))],
        "outputs": outputs[LOGITS] == outputs[PROBABILITIES] == [len(classes)],
        "batch size": 0 <= config.max_batch_size <= MAX_BATCH_SIZE,
        "version": bool(versions) and min(versions) > 0,
    }
    if wrong := ", ".join(part for part, fits in valid.items() if not fits):
        what = f"model {name}: its configuration contradicts itself ({wrong})"
        raise RequestError(what, hint="publish the model again")
    return ModelInfo(
        model=config.name,
        version=int(max(versions)),
        preprocess=preprocess,
        classes=classes,
        weights_sha256=own.get("weights_sha256", ""),
        precision=own.get("precision", ""),
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        priority_levels=config.dynamic_batching.priority_levels,
    )


def _check_contract(name: str, preprocess: Preprocess, contract: str, expected: str | None) -> None:
    """Compare the preprocessing of a model with its recorded hash and with the hash that the caller expects."""
    if contract != preprocess.fingerprint:
        raise RequestError(
            f"model {name}: its preprocessing was edited",
            expected=f"contract {shown(contract)}",
            found=preprocess.fingerprint,
            hint="publish the model again",
        )
    if expected not in {None, preprocess.fingerprint}:
        raise RequestError(
            f"model {name}: has another preprocessing than the one given as `contract`",
            expected=f"contract {expected}",
            found=preprocess.fingerprint,
            hint="choose another model, or update the client's `contract`",
        )
