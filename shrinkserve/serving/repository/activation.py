"""Write the files of a model's folder that depend on its active version: configurations and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card
from shrinkserve.atomic import write_atomic
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine, engines_of
from shrinkserve.errors import ArtifactError
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.model_config import CONFIG, LABELS
from shrinkserve.serving.repository import serving_options
from shrinkserve.serving.repository.engine_config import CONFIGS, engine_config, engine_config_path, limit_batches
from shrinkserve.text import check_class_names


def activate(folder: Path, version: int, card: Card, options: ServingConfig | None = None) -> None:
    """Make `version` the active version of a staged model folder.

    Args:
        folder: the model's staged folder.
        version: the number of a version in it.
        card: the version's card.
        options: serving options; None keeps the options and edits of the existing configurations.

    Raises:
        ArtifactError: a configuration cannot be read, or a class name is invalid.
    """
    config = default_engine_config(folder, version, card, options)
    config_text.write_config(folder / CONFIG, config)
    write_atomic(folder / LABELS, labels_file(card.classes))

    engines = {engine_config_path(folder, engine.name): engine for engine in engines_of(card)}
    for path in set((folder / CONFIGS).glob("*.pbtxt")) - engines.keys():
        path.unlink()  # this version does not have the engine
    for path, engine in engines.items():
        config_text.write_config(path, other_engine_config(folder, engine, config, options))


def default_engine_config(folder: Path, version: int, card: Card, options: ServingConfig | None) -> pb.ModelConfig:
    """Return the configuration with which `activate` lets a version run ``model.onnx``."""
    if options is not None or not (folder / CONFIG).is_file():
        return serving_options.build_config(folder.name, card, options, version=version)
    config = config_text.read_config(folder / CONFIG)
    model_config.set_contract(config, card, version)
    return config


def other_engine_config(
    folder: Path, engine: Engine, base: pb.ModelConfig, options: ServingConfig | None
) -> pb.ModelConfig:
    """Return the configuration with which `activate` lets a version run an engine; `base` is that of the default."""
    path = engine_config_path(folder, engine.name)
    known = config_text.read_config(path) if options is None and path.is_file() else None
    config = engine_config(engine, base, known)
    limit_batches(config, engine)  # a new plan may take smaller batches than the one before
    return config


def labels_file(classes: Sequence[str]) -> bytes:
    """Return the content of ``labels.txt``: one class name a line.

    Raises:
        ArtifactError: a class name spans lines or contains control characters.
    """
    check_class_names(classes, ArtifactError)
    return "".join(f"{name}\n" for name in classes).encode()


def has_labels(folder: Path, classes: Sequence[str]) -> bool:
    """Return True if the ``labels.txt`` of a model's folder contains exactly these class names.

    Raises:
        ArtifactError: as for `labels_file`.
    """
    path = folder / LABELS
    # Bytes, as reading text would hide line ends of Windows, which become part of the names.
    return path.is_file() and path.read_bytes() == labels_file(classes)
