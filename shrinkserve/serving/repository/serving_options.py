"""Serving options in a model's configuration: batching, queue, instances, threads, warm-up, cache.

The parameters are those that the backends read: see ``tests/unit/serving/test_container_config.py`` for the table and
its sources.
"""

from __future__ import annotations

from collections.abc import Collection

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import MODEL, Card
from shrinkserve.config import ServingConfig
from shrinkserve.engines import THREADS
from shrinkserve.serving.model_config import fill_warmup, parameters, set_contract

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
    fill_warmup(config)


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
