"""Triton's model configuration as a protobuf.

One ``config.pbtxt`` serves both NVIDIA's container, whose ``onnxruntime`` backend is C++, and the server from PyPI,
whose backend of that name is written in Python. The OpenVINO configurations are for the latter only: NVIDIA's backend
runs batches of one size.

The fields are described in ``model_config.proto`` of github.com/triton-inference-server/common.
"""

from __future__ import annotations

import json

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, PROBABILITIES, Card
from shrinkserve.engines import FILE
from shrinkserve.errors import ArtifactError, DataError
from shrinkserve.preprocess import Preprocess

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
ENCODED = "jpeg"
"""Input of an ensemble that takes encoded images."""
MAX_CLASSES = 100_000
"""Largest number of classes of a served model."""
MAX_CLASSES_TEXT = 8 << 20
"""Largest length of the class names as JSON. A client reads them with the configuration, in one reply."""
PREFIX = "shrinkserve."
"""Prefix of our own parameters. Triton reports them to clients and reads none of them."""
_DERIVED = frozenset({"dali", "ensemble", "onnxruntime"})
"""Backends and platforms of the models that are derived from a classifier."""


def set_contract(config: pb.ModelConfig, card: Card, version: int) -> None:
    """Write inputs, outputs, version and our parameters into `config`; serving options and edits stay.

    Raises:
        ArtifactError: the card lacks the preprocessing or the classes.
    """
    if not card.preprocess or not card.classes:
        raise ArtifactError(
            f"card of {card.name}: incomplete", expected="preprocess and classes", hint="export the model again"
        )
    preprocess, classes = Preprocess.from_dict(card.preprocess), len(card.classes)
    for field in ("input", "output", "version_policy"):
        config.ClearField(field)
    config.input.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=preprocess.shape)
    config.output.add(name=LOGITS, data_type=pb.TYPE_FP32, dims=[classes])
    config.output.add(name=PROBABILITIES, data_type=pb.TYPE_FP32, dims=[classes], label_filename=LABELS)
    config.version_policy.specific.versions.append(version)
    fill_warmup(config)
    own = {
        "preprocess": json.dumps(preprocess.to_dict()),
        "contract": preprocess.fingerprint,
        "weights_sha256": card.weights_sha256,
        "precision": card.precision,
        "classes": classes_text(card),
    }
    for key, value in own.items():
        config.parameters[PREFIX + key].string_value = value


def classes_text(card: Card) -> str:
    """Return the class names of a card as JSON.

    Raises:
        ArtifactError: there are more names, or longer ones, than a server can hand out.
    """
    text = json.dumps(card.classes, ensure_ascii=False)
    if len(card.classes) > MAX_CLASSES or len(text) > MAX_CLASSES_TEXT:
        raise ArtifactError(
            f"card of {card.name}: too many class names",
            expected=f"at most {MAX_CLASSES} names and {MAX_CLASSES_TEXT} characters",
            found=f"{len(card.classes)} names and {len(text)} characters",
            hint="use fewer classes or shorter names",
        )
    return text


def fill_warmup(config: pb.ModelConfig) -> None:
    """Give the warm-up samples blank images of the model's size."""
    for sample in config.model_warmup:
        for tensor in config.input:
            warm = sample.inputs[tensor.name]
            warm.data_type, warm.zero_data = tensor.data_type, True
            warm.dims[:] = tensor.dims


def copy_contract(source: pb.ModelConfig, target: pb.ModelConfig) -> None:
    """Copy everything that `set_contract` writes from one configuration to another."""
    for part in ("input", "output", "version_policy"):
        target.ClearField(part)
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.version_policy.CopyFrom(source.version_policy)
    fill_warmup(target)
    for key, value in source.parameters.items():
        if key.startswith(PREFIX):
            target.parameters[key].CopyFrom(value)


def parameters(config: pb.ModelConfig) -> dict[str, str]:
    """Return our own parameters without their prefix."""
    return {
        key.removeprefix(PREFIX): value.string_value
        for key, value in config.parameters.items()
        if key.startswith(PREFIX)
    }


def preprocess_of(config: pb.ModelConfig) -> Preprocess:
    """Return the preprocessing in our parameters.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        described = json.loads(parameters(config)["preprocess"])
        return Preprocess.from_dict(described if isinstance(described, dict) else {})
    except (KeyError, ValueError, DataError, RecursionError) as exc:
        raise _damaged(config, "preprocess", "the preprocessing") from exc


def class_names(config: pb.ModelConfig) -> list[str]:
    """Return the class names in our parameters, in the order of the logits.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    try:
        classes = json.loads(parameters(config)["classes"])
    except (KeyError, ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not 0 < len(classes) <= MAX_CLASSES or {*map(type, classes)} != {str}:
        raise _damaged(config, "classes", "the class names")
    return classes


def _damaged(config: pb.ModelConfig, key: str, content: str) -> ArtifactError:
    return ArtifactError(
        f"configuration of {config.name}: does not describe {content}",
        expected=f"the parameter {PREFIX}{key} as JSON",
        hint="publish the model again",
    )


def is_derived(config: pb.ModelConfig) -> bool:
    """Return True for a model that we derived from a classifier; a user's own model may have such a name."""
    own = parameters(config)  # a classifier has weights
    derived = "preprocess" in own and "weights_sha256" not in own
    return derived and (config.backend or config.platform) in _DERIVED


def unsafe_file(config: pb.ModelConfig) -> str | None:
    """Return the name of a model file that has a meaning in a shell: Triton's Python backend puts it into a command."""
    files = (config.default_model_filename, *config.cc_model_filenames.values())
    return next((file for file in files if file and not FILE.fullmatch(file)), None)


def active_version(config: pb.ModelConfig) -> int:
    """Return the active version of a configuration: the highest of its version policy.

    Raises:
        ArtifactError: the policy names no version.
    """
    versions = config.version_policy.specific.versions
    if not versions:
        raise ArtifactError(
            f"configuration of {config.name}: names no active version",
            expected="version_policy { specific { versions: N } }",
            hint="publish the model again",
        )
    return int(max(versions))
