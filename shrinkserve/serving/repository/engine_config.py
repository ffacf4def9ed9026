"""Configurations of a version's other engines.

``config.pbtxt`` runs ``model.onnx`` in ONNX Runtime. ``configs/NAME.pbtxt`` runs another engine of the same version;
a server that is started with ``--model-config-name NAME`` reads it instead. Inputs, outputs and labels are the same
for all engines, so a client does not notice which one runs.
"""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.engines import THREADS, Engine
from shrinkserve.serving import model_config

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
        config.ClearField("optimization")
        if engine.backend != base.backend:  # it has another parameter for threads, or none
            options = model_config.options_of(base)
            del config.parameters[THREADS[base.backend]]
            model_config.set_options(config, options)
        for key, value in engine.parameters.items():
            config.parameters[key].string_value = value
    return config


def engine_config_path(folder: Path, name: str) -> Path:
    """Return the path of an engine's configuration in a model's folder."""
    return folder / CONFIGS / f"{name}.pbtxt"
