"""Other ways to run a version: one public name, several engines, one configuration each.

``config.pbtxt`` runs ``model.onnx`` in ONNX Runtime. ``configs/NAME.pbtxt`` runs another engine of the same version,
and is what the server reads instead when it is started with ``--model-config-name NAME``. Inputs, outputs and labels
are those of the model whatever runs it, so no client notices which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card
from shrinkserve.errors import ArtifactError
from shrinkserve.serving import model_config

CONFIGS = "configs"
DETAILS = "engines"
"""Where a card keeps its engines, in `Card.details`."""


@dataclass(frozen=True)
class Engine:
    """Another way to run a version.

    Attributes:
        name: of the configuration: ``configs/NAME.pbtxt``.
        backend: Triton's, e.g. ``"tensorrt"``, ``"openvino"`` or ``"onnxruntime"``.
        file: the file in the version's folder that it loads.
        precision: of its arithmetic.
        capabilities: compute capability, e.g. ``"8.9"`` -> file, where a GPU needs one of its own.
        parameters: of the backend.
        record: what the card is to remember, as JSON data: how it was made and how it was checked.
    """

    name: str
    backend: str
    file: str
    precision: str = "float32"
    capabilities: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of all files that it needs."""
        return {self.file, *self.capabilities.values()}

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data, for the card."""
        return {
            "backend": self.backend,
            "file": self.file,
            "precision": self.precision,
            "capabilities": dict(self.capabilities),
            "parameters": dict(self.parameters),
            "record": dict(self.record),
        }


def engines_of(card: Card) -> list[Engine]:
    """The engines that a card names, sorted by name.

    Raises:
        ArtifactError: the card's account of them is not one.
    """
    try:
        return [Engine(name, **raw) for name, raw in sorted(card.details.get(DETAILS, {}).items())]
    except (TypeError, AttributeError) as fault:
        raise ArtifactError(f"card of {card.name}: engines cannot be read ({fault})", do="export it again") from fault


def configuration(engine: Engine, base: pb.ModelConfig, known: pb.ModelConfig | None = None) -> pb.ModelConfig:
    """The configuration that runs an engine.

    Args:
        engine: what is to be run.
        base: of the model's default engine, for the version that answers: the contract is taken from it.
        known: of this engine before, whose choices and edits are kept; those of `base` when None.
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
        if engine.backend != base.backend:  # its threads go by another name, if it has any
            options = model_config.options_of(base)
            del config.parameters[model_config.THREADS[base.backend]]
            model_config.set_options(config, options)
        for key, value in engine.parameters.items():
            config.parameters[key].string_value = value
    return config


def configuration_path(folder: Path, name: str) -> Path:
    """Where a model's folder has the configuration of an engine."""
    return folder / CONFIGS / f"{name}.pbtxt"
