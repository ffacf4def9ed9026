"""Triton's model configuration as a protobuf.

One ``config.pbtxt`` serves both NVIDIA's container, whose ``onnxruntime`` backend is C++, and the server from PyPI,
whose backend of that name is written in Python. The OpenVINO configurations are for the latter only: NVIDIA's backend
runs batches of one size.

The fields are described in ``model_config.proto`` of github.com/triton-inference-server/common. The parameters are
those that the backends read: see ``tests/unit/serving/test_container_config.py`` for the table and its sources.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, MODEL, PROBABILITIES, Card
from shrinkserve.config import ServingConfig
from shrinkserve.engines import THREADS
from shrinkserve.errors import ArtifactError
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
CPU_ONLY = frozenset({("onnxruntime", "int8")})
"""Backends and precisions that run on the CPU: CUDA has no int8 convolution and would compute in float32."""


def build_config(name: str, card: Card, options: ServingConfig | None = None, *, version: int = 1) -> pb.ModelConfig:
    """Return the configuration of an ONNX classifier.

    Args:
        name: the model's name.
        card: of the model file; provides preprocessing, classes and the hash of the weights.
        options: serving options.
        version: the active version.

    Raises:
        ArtifactError: the card lacks the preprocessing or the classes.
    """
    options = options or ServingConfig()
    config = pb.ModelConfig(name=name, backend="onnxruntime", default_model_filename=MODEL)
    set_contract(config, card, version)
    set_options(config, options)
    return config


def set_options(config: pb.ModelConfig, options: ServingConfig) -> None:
    """Write serving options into `config`: batching, queue, instances, threads, warm-up, cache."""
    config.max_batch_size = options.max_batch_size
    config.ClearField("instance_group")
    config.instance_group.add(kind=instance_kind(config), count=options.instances)
    _set_device_options(config)
    threads = THREADS.get(config.backend)
    if threads is not None:
        config.parameters[threads].string_value = str(options.threads)
    config.ClearField("response_cache")
    if options.response_cache:
        config.response_cache.enable = True

    config.ClearField("dynamic_batching")
    batching = config.dynamic_batching
    batching.SetInParent()  # an empty message turns batching on
    # Requests that arrive while all instances are busy are batched without a delay. With a delay an idle server
    # waits as well: 2 ms more than doubled the latency at batch 1 on a CPU.
    batching.max_queue_delay_microseconds = options.queue_delay_us
    batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    # With a queue policy or priorities, Triton 2.51 queues requests in a thread that sometimes misses its wake-up, and
    # the request waits for 500 ms. So neither is written unless asked for.
    if options.queue_size or options.queue_timeout_us:
        policy = batching.default_queue_policy
        policy.max_queue_size = options.queue_size
        policy.default_timeout_microseconds = options.queue_timeout_us
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        # A client may send a shorter timeout, so that a request that it has given up is not computed.
        policy.allow_timeout_override = True
    if options.priority_levels:
        batching.priority_levels = options.priority_levels
        batching.default_priority_level = 1
    sizes = {1, *options.preferred_batch_sizes, options.max_batch_size}
    set_warmup(config, sizes if options.warmup else ())
    if config.optimization.HasField("cuda"):
        set_graphs(config, sizes)


def set_warmup(config: pb.ModelConfig, batches: Collection[int]) -> None:
    """Replace the warm-up of `config` by one of blank images in batches of these sizes."""
    config.ClearField("model_warmup")
    for batch in sorted(batches):
        config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
    _fill_warmup(config)


def set_graphs(config: pb.ModelConfig, batches: Collection[int]) -> None:
    """Capture a CUDA graph for each of these batch sizes, so that the host launches one graph instead of every kernel.

    TensorRT's backend runs other sizes kernel by kernel. It logs a capture that fails and goes on without the graph.
    """
    config.optimization.cuda.ClearField("graph_spec")
    for batch in sorted(batches):
        spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
        for tensor in config.input:
            spec.input[tensor.name].dim.extend(tensor.dims)


def instance_kind(config: pb.ModelConfig) -> pb.ModelInstanceGroup.Kind.ValueType:
    """Return where a configuration's backend can run: on the CPU only, or where the server chooses.

    NVIDIA's OpenVINO backend rejects ``KIND_AUTO`` on a host with a GPU.
    """
    precision = parameters(config).get("precision", "float32")
    if config.backend == "openvino" or (config.backend, precision) in CPU_ONLY:
        return pb.ModelInstanceGroup.KIND_CPU
    return pb.ModelInstanceGroup.KIND_AUTO


def _set_device_options(config: pb.ModelConfig) -> None:
    """Write the parameters that NVIDIA's ONNX Runtime backend needs; our own backend ignores them.

    * Memory patterns of many batch sizes make the memory grow without limit; ONNX Runtime's default is on.
    * For each new batch size CUDA's convolutions search for an algorithm. The backend's default is an exhaustive search
      as soon as a configuration has parameters.
    * TF32 keeps 10 bits of mantissa, which does not meet the tolerance of a float32 graph.
    """
    if config.backend != "onnxruntime":
        return
    config.parameters["enable_mem_pattern"].string_value = "0"
    if instance_kind(config) == pb.ModelInstanceGroup.KIND_CPU:
        config.parameters.pop("cudnn_conv_algo_search", None)
        return
    config.parameters["cudnn_conv_algo_search"].string_value = "1"  # HEURISTIC
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if not any(accelerator.name == "cuda" for accelerator in accelerators):
        accelerators.add(name="cuda").parameters["use_tf32"] = "0"


def options_of(config: pb.ModelConfig) -> ServingConfig:
    """Return the serving options in a configuration that `set_options` wrote."""
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
    _fill_warmup(target)
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
