"""Other ways to run a version: one public name, several engines, one configuration each.

``config.pbtxt`` runs ``model.onnx`` in ONNX Runtime. ``configs/NAME.pbtxt`` runs another engine of the same version,
and is what the server reads instead when it is started with ``--model-config-name NAME``. Inputs, outputs and labels
are those of the model whatever runs it, so no client notices which one it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving import model_config

CONFIGS = "configs"
DETAILS = "engines"
"""Where a card keeps its engines, in `Card.details`."""
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".onnx", "tensorrt": ".plan"}
"""Backend that a card may name -> suffix of the files that it loads. None of them runs code of the artifact."""
PARAMETERS = frozenset({"INFERENCE_PRECISION_HINT", *model_config.THREADS.values()})
"""Keys of the parameters that a card may set. Others are edited into the configuration by hand."""
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A plain file name: no folders, and nothing that a shell reads."""
_VALUE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")


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
    """Return the engines that a card names, validated and sorted by name.

    A card comes with an artifact from anywhere, and all of this goes into paths and configurations. This is the only
    place that reads it.

    Raises:
        ArtifactError: an engine that `add_engine` would not have written.
    """
    engines = card.details.get(DETAILS, {})
    if not isinstance(engines, dict):
        raise _invalid(card, "engines", "an object", engines)
    return [_engine(card, name, raw) for name, raw in sorted(engines.items())]


def check_files(card: Card) -> None:
    """Refuse a card with files that neither ``model.onnx`` nor one of its engines accounts for, e.g. ``model.py``.

    Raises:
        ArtifactError: names the first such file.
    """
    known = {model_config.MODEL}.union(*(engine.files for engine in engines_of(card)))
    for file in sorted(card.files.keys() - known):
        raise _invalid(card, "files", "model.onnx and the files of its engines", file)


def _engine(card: Card, name: str, raw: Any) -> Engine:
    from shrinkserve.serving.names import check_name

    where = f"engine {name[:64]!r}"
    try:
        check_name(name)
        engine = Engine(name, **raw)
    except (TypeError, ConfigError) as exc:
        raise ArtifactError(f"card of {card.name}: {where} ({exc})", hint="do not use this artifact") from exc
    if not isinstance(engine.backend, str) or engine.backend not in SUFFIXES:
        raise _invalid(card, f"{where}: backend", f"one of {', '.join(SUFFIXES)}", engine.backend)
    if not isinstance(engine.precision, str) or engine.precision not in model_config.PRECISIONS:
        raise _invalid(card, f"{where}: precision", f"one of {', '.join(model_config.PRECISIONS)}", engine.precision)
    for part, keys, values in (("capabilities", _CAPABILITY, FILE), ("parameters", FILE, _VALUE)):
        found = getattr(engine, part)
        if not isinstance(found, dict) or not all(_matches(keys, k) and _matches(values, v) for k, v in found.items()):
            raise _invalid(card, f"{where}: {part}", "an object of plain texts", found)
    if unknown := sorted(engine.parameters.keys() - PARAMETERS):
        raise _invalid(card, f"{where}: parameters", f"keys out of {', '.join(sorted(PARAMETERS))}", unknown[0])
    for file in (engine.file, *engine.capabilities.values()):
        plain = _matches(FILE, file) and file.endswith(SUFFIXES[engine.backend])
        if not plain or file not in card.files:
            raise _invalid(card, f"{where}: file", f"NAME{SUFFIXES[engine.backend]} out of its files", file)
    built = engine.record.get("built", {}) if isinstance(engine.record, dict) else None
    if not isinstance(built, dict) or not all(isinstance(one, dict) for one in built.values()):
        raise _invalid(card, f"{where}: record", "an object", engine.record)
    return engine


def _matches(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _invalid(card: Card, what: str, expected: str, found: Any) -> ArtifactError:
    hint = "do not use this artifact, or export it again"
    return ArtifactError(f"card of {card.name}: {what}", expected=expected, found=repr(found)[:100], hint=hint)


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
