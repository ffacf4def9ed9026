"""Configurations of the models that are derived from a classifier, given the classifier's configuration."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, MODEL, PROBABILITIES
from shrinkserve.engines import THREADS
from shrinkserve.machine import usable_cores
from shrinkserve.runtimes.best_lines import TEXT, line_table, table_hash, text_length
from shrinkserve.serving import names
from shrinkserve.serving.model_config import ENCODED, PREFIX, class_names, parameters
from shrinkserve.serving.repository.dali_pipeline import PIPELINE_INPUT

LINES_HASH = "lines"
"""Our parameter of ``NAME_lines``: the hash of the lines in its graph."""
MAX_DECODERS = 16
"""Most decoder instances of a new configuration."""


def derived_config(base: pb.ModelConfig, part: str) -> pb.ModelConfig:
    """Return the configuration of the derived model with Triton's name `part`.

    Raises:
        ArtifactError: the class names in the classifier's configuration are missing or damaged.
    """
    known = names.model_names(base.name)
    makers = {
        known.pipeline: pipeline_config,
        known.ensemble: ensemble_config,
        known.lines: lines_config,
        known.text: text_config,
    }
    return makers[part](base)


def pipeline_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME_preprocess``.

    NVIDIA's DALI backend fails a batch of several requests on a host without a GPU (its copy uses CUDA), so each
    request is executed alone, and there is one single-threaded instance for each core.
    """
    config = pb.ModelConfig(
        name=names.model_names(base.name).pipeline, backend="dali", max_batch_size=base.max_batch_size
    )
    # Encoded images have different lengths; ragged input lets a request carry several of them.
    config.input.add(name=PIPELINE_INPUT, data_type=pb.TYPE_UINT8, dims=[-1], allow_ragged_batch=True)
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=base.input[0].dims if base.input else [])
    config.dynamic_batching.preferred_batch_size.append(1)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=min(MAX_DECODERS, usable_cores()))
    config.parameters["num_threads"].string_value = "1"
    _copy_contract(base, config)
    return config


def ensemble_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME``."""
    config = _takes_encoded(base, names.model_names(base.name).ensemble)
    config.output.extend(base.output)
    classify = config.ensemble_scheduling.step[1]
    for output in (LOGITS, PROBABILITIES):
        classify.output_map[output] = output
    return config


def lines_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME_lines``: one instance with one thread, since a text takes microseconds."""
    config = pb.ModelConfig(
        name=names.model_names(base.name).lines, backend="onnxruntime", default_model_filename=MODEL
    )
    config.max_batch_size = base.max_batch_size
    table = line_table(class_names(base))
    config.input.add(name=PROBABILITIES, data_type=pb.TYPE_FP32, dims=[len(table)])
    config.output.add(name=TEXT, data_type=pb.TYPE_UINT8, dims=[text_length(table)])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    config.parameters[THREADS[config.backend]].string_value = "1"
    config.parameters[PREFIX + LINES_HASH].string_value = table_hash(table)
    _copy_contract(base, config)
    return config


def text_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME_text``."""
    known = names.model_names(base.name)
    config = _takes_encoded(base, known.text)
    config.output.add(name=TEXT, data_type=pb.TYPE_UINT8, dims=[text_length(line_table(class_names(base)))])
    config.ensemble_scheduling.step[1].output_map[PROBABILITIES] = PROBABILITIES
    write = config.ensemble_scheduling.step.add(model_name=known.lines, model_version=-1)
    write.input_map[PROBABILITIES] = PROBABILITIES
    write.output_map[TEXT] = TEXT
    return config


def _takes_encoded(base: pb.ModelConfig, name: str) -> pb.ModelConfig:
    """Return an ensemble that decodes and classifies images; the caller adds the outputs."""
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=base.max_batch_size)
    config.input.add(name=ENCODED, data_type=pb.TYPE_UINT8, dims=[-1])
    decode = config.ensemble_scheduling.step.add(model_name=names.model_names(base.name).pipeline, model_version=-1)
    decode.input_map[PIPELINE_INPUT] = ENCODED
    decode.output_map[INPUT] = "pixels"
    classify = config.ensemble_scheduling.step.add(model_name=base.name, model_version=-1)
    classify.input_map[INPUT] = "pixels"
    _copy_contract(base, config)
    return config


def interface(config: pb.ModelConfig) -> pb.ModelConfig:
    """Return the part of a configuration that the other models of an ensemble depend on."""
    found = pb.ModelConfig(name=config.name, backend=config.backend, max_batch_size=config.max_batch_size)
    found.platform = config.platform
    for tensor in config.input:
        found.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    for tensor in config.output:
        found.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    found.ensemble_scheduling.CopyFrom(config.ensemble_scheduling)
    _copy_contract(config, found)
    if lines := parameters(config).get(LINES_HASH):
        found.parameters[PREFIX + LINES_HASH].string_value = lines
    return found


def _copy_contract(base: pb.ModelConfig, config: pb.ModelConfig) -> None:
    for key in ("preprocess", "contract"):
        config.parameters[f"{PREFIX}{key}"].CopyFrom(base.parameters[f"{PREFIX}{key}"])
