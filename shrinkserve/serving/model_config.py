"""Triton's model configuration, built as a protobuf and written in its text format.

One ``config.pbtxt`` serves both NVIDIA's container, whose ``onnxruntime`` backend is C++, and a server whose
backend of that name is written in Python: it uses only fields that both understand, and leaves the choice of
CPU or GPU to the server (``KIND_AUTO``).

The fields are described in ``model_config.proto`` of github.com/triton-inference-server/common.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, MODEL, PROBABILITIES, Card
from shrinkserve.config import ServingConfig
from shrinkserve.engines import THREADS
from shrinkserve.errors import ArtifactError
from shrinkserve.preprocess import Preprocess

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
ENCODED = "jpeg"
"""The input of an ensemble that takes encoded images."""
MAX_CLASSES = 100_000
"""Largest number of classes of a served model."""
MAX_CLASSES_TEXT = 8 << 20
"""Largest length of the class names as JSON. A client reads them with the configuration, in one reply."""
PREFIX = "shrinkserve."
"""What the keys of our own parameters begin with; Triton hands them out and reads none of them."""


def build_config(name: str, card: Card, options: ServingConfig | None = None, *, version: int = 1) -> pb.ModelConfig:
    """The configuration of an ONNX classifier.

    Args:
        name: the model's name.
        card: of the model file: the preprocessing, the classes and the weights' hash are taken from it.
        options: batching, instances and what else is a choice.
        version: the version that answers.

    Raises:
        ArtifactError: the card lacks the preprocessing or the classes.
    """
    options = options or ServingConfig()
    config = pb.ModelConfig(name=name, backend="onnxruntime", default_model_filename=MODEL)
    set_options(config, options)
    set_contract(config, card, version)
    return config


def set_options(config: pb.ModelConfig, options: ServingConfig) -> None:
    """Write what is a choice into `config`: batching, queue, instances, threads, warm-up, cache."""
    config.max_batch_size = options.max_batch_size
    config.ClearField("instance_group")
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_AUTO, count=options.instances)
    threads = THREADS.get(config.backend)
    if threads is not None:
        config.parameters[threads].string_value = str(options.threads)
    config.ClearField("response_cache")
    if options.response_cache:
        config.response_cache.enable = True

    config.ClearField("dynamic_batching")
    batching = config.dynamic_batching
    batching.SetInParent()  # batches are made even when nothing about them is said
    # Requests that arrive while every instance is busy are batched anyway. A delay makes an idle server wait
    # as well: 2 ms of it more than doubled the latency at batch 1 on a CPU.
    batching.max_queue_delay_microseconds = options.queue_delay_us
    batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    # A queue policy or priorities put a thread of Triton's before the instances that (in 2.51, whatever the backend)
    # misses its wake-up now and again: the request then waits for 500 ms. So neither is there unless asked for.
    if options.queue_size or options.queue_timeout_us:
        policy = batching.default_queue_policy
        policy.max_queue_size = options.queue_size
        policy.default_timeout_microseconds = options.queue_timeout_us
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        # A client may say that it waits less long: what nobody waits for any more is not computed.
        policy.allow_timeout_override = True
    if options.priority_levels:
        batching.priority_levels = options.priority_levels
        batching.default_priority_level = 1
    config.ClearField("model_warmup")
    if options.warmup:
        for batch in sorted({1, *options.preferred_batch_sizes, options.max_batch_size}):
            config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
    _fill_warmup(config)


def options_of(config: pb.ModelConfig) -> ServingConfig:
    """Read back what `set_options` and `build` made of the options."""
    batching = config.dynamic_batching
    threads = THREADS.get(config.backend, "")
    return ServingConfig(
        max_batch_size=config.max_batch_size or 1,
        instances=config.instance_group[0].count if config.instance_group else 1,
        threads=int(config.parameters[threads].string_value or 0) if threads in config.parameters else 0,
        queue_delay_us=batching.max_queue_delay_microseconds,
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        queue_size=batching.default_queue_policy.max_queue_size,
        queue_timeout_us=batching.default_queue_policy.default_timeout_microseconds,
        priority_levels=batching.priority_levels,
        warmup=bool(config.model_warmup),
        response_cache=config.response_cache.enable,
    )


def set_contract(config: pb.ModelConfig, card: Card, version: int) -> None:
    """Write what follows from the model itself into `config`, and leave what was chosen, tuned or edited.

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
    _fill_warmup(config)
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


def _fill_warmup(config: pb.ModelConfig) -> None:
    """Have the warm-up's batches be of blank images of the model's size."""
    for sample in config.model_warmup:
        for tensor in config.input:
            warm = sample.inputs[tensor.name]
            warm.data_type, warm.zero_data = tensor.data_type, True
            warm.dims[:] = tensor.dims


def copy_contract(source: pb.ModelConfig, target: pb.ModelConfig) -> None:
    """Write what `set_contract` wrote into `source` into `target` too."""
    for part in ("input", "output", "version_policy"):
        target.ClearField(part)
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.version_policy.CopyFrom(source.version_policy)
    _fill_warmup(target)
    for key, value in source.parameters.items():
        if key.startswith(PREFIX):
            target.parameters[key].CopyFrom(value)


def to_text(config: pb.ModelConfig) -> str:
    """As the text of a ``config.pbtxt``."""
    return text_format.MessageToString(config)


def parse_config_text(text: str, where: str = CONFIG) -> pb.ModelConfig:
    """Read the text of a ``config.pbtxt``.

    Raises:
        ArtifactError: not such a text; names the line.
    """
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as exc:
        raise ArtifactError(f"{where}: not a Triton model configuration ({exc})", hint="mend that line") from exc


def read_config(path: Path) -> pb.ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        ArtifactError: no such file, or not a model configuration.
    """
    try:
        return parse_config_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"{path}: not a readable configuration ({exc})", hint="publish the model again") from exc


def parameters(config: pb.ModelConfig) -> dict[str, Any]:
    """Our own parameters, without their prefix."""
    return {
        key.removeprefix(PREFIX): value.string_value
        for key, value in config.parameters.items()
        if key.startswith(PREFIX)
    }


def active_version(config: pb.ModelConfig) -> int:
    """The version that answers, by the configuration's version policy.

    Raises:
        ArtifactError: the policy does not name versions.
    """
    versions = config.version_policy.specific.versions
    if not versions:
        raise ArtifactError(
            f"configuration of {config.name}: does not say which version answers",
            expected="version_policy { specific { versions: N } }",
            hint="publish the model again",
        )
    return int(max(versions))
