"""Configurations of a version's other engines.

``config.pbtxt`` runs ``model.onnx`` in ONNX Runtime. ``configs/NAME.pbtxt`` runs another engine of the same version;
a server that is started with ``--model-config-name NAME`` reads it instead. Inputs, outputs and labels are the same
for all engines, so a client does not notice which one runs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.engines import Engine
from shrinkserve.serving import model_config
from shrinkserve.serving.repository import serving_options

CONFIGS = "configs"


def engine_config(engine: Engine, base: pb.ModelConfig, known: pb.ModelConfig | None = None) -> pb.ModelConfig:
    """Return the configuration that runs an engine.

    Args:
        engine: the engine.
        base: configuration of the default engine for the active version; provides inputs, outputs and version.
        known: the engine's existing configuration, whose options and edits are kept; None takes those of `base`.
    """
    config = pb.ModelConfig()
    config.CopyFrom(known or base)
    for part in ("name", "default_model_filename", "cc_model_filenames"):
        config.ClearField(part)
    config.name, config.backend, config.default_model_filename = base.name, engine.backend, engine.file
    config.cc_model_filenames.update(engine.capabilities)
    model_config.copy_contract(base, config)
    config.parameters[f"{model_config.PREFIX}precision"].string_value = engine.precision
    if known is None:
        _set_initial_options(config, engine, base)
    if config.optimization.HasField("cuda"):
        serving_options.set_graphs(config, [spec.batch_size for spec in config.optimization.cuda.graph_spec])
    return config


def _plan_batches(engine: Engine) -> list[list[int]]:
    """Return the smallest, optimal and largest batch of each plan of an engine; other engines take any batch."""
    return [built["batches"] for built in engine.plans.values() if "batches" in built]


def _largest_batch(engine: Engine, wanted: int) -> int:
    """Return the largest batch up to `wanted` that all plans of an engine take."""
    return min([wanted, *(batches[-1] for batches in _plan_batches(engine))])


def limit_batches(config: pb.ModelConfig, engine: Engine) -> None:
    """Lower the batch sizes of a configuration to those that a new plan of its engine takes."""
    largest = _largest_batch(engine, config.max_batch_size)
    if config.max_batch_size <= largest:
        return
    config.max_batch_size = largest
    preferred = [size for size in config.dynamic_batching.preferred_batch_size if size <= largest]
    config.dynamic_batching.preferred_batch_size[:] = preferred
    warmed = {min(sample.batch_size, largest) for sample in config.model_warmup}
    serving_options.set_warmup(config, warmed)
    if config.optimization.HasField("cuda"):
        captured = {min(spec.batch_size, largest) for spec in config.optimization.cuda.graph_spec}
        serving_options.set_graphs(config, captured)


def _set_initial_options(config: pb.ModelConfig, engine: Engine, base: pb.ModelConfig) -> None:
    """Write the options of a new engine: those of the default engine, within the limits of its file."""
    options = serving_options.options_of(base)
    config.ClearField("optimization")
    if engine.backend != base.backend:
        for key in [key for key in config.parameters if not key.startswith(model_config.PREFIX)]:
            del config.parameters[key]
    largest = _largest_batch(engine, options.max_batch_size)
    preferred = tuple(size for size in options.preferred_batch_sizes if size <= largest)
    serving_options.set_options(config, replace(options, max_batch_size=largest, preferred_batch_sizes=preferred))
    # TensorRT optimises a plan for the middle one of its sizes, so that one is warmed up and captured as well.
    planned = {size for batches in _plan_batches(engine) for size in batches if size <= largest}
    sizes = {1, largest, *preferred, *planned}
    if options.warmup and planned:
        serving_options.set_warmup(config, sizes)
    if engine.backend == "tensorrt":
        config.optimization.cuda.graphs = True
        serving_options.set_graphs(config, sizes)
    for key, value in engine.parameters.items():
        config.parameters[key].string_value = value


def engine_config_path(folder: Path, name: str) -> Path:
    """Return the path of an engine's configuration in a model's folder."""
    return folder / CONFIGS / f"{name}.pbtxt"
