"""The files of a model's folder that belong to the version that answers: configurations and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shrinkserve.artifact import read_card
from shrinkserve.atomic import write_atomic
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError
from shrinkserve.serving import model_config
from shrinkserve.serving.model_config import CONFIG, LABELS
from shrinkserve.serving.repository.engines import CONFIGS, configuration, configuration_path, engines_of
from shrinkserve.text import check_class_names


def activate(folder: Path, version: int, options: ServingConfig | None = None) -> None:
    """Write what makes `version` answer into a model's staged folder.

    Args:
        folder: of the model.
        version: a number whose folder is there.
        options: how it is run; None keeps what the configurations say, edits and all.

    Raises:
        ArtifactError: a card or configuration that cannot be read, or class names that are not one line each.
    """
    card = read_card(folder / str(version), verify=False)
    if options is None and (folder / CONFIG).is_file():
        config = model_config.read_config(folder / CONFIG)
        model_config.set_contract(config, card, version)
    else:
        config = model_config.build_config(folder.name, card, options, version=version)
    write_atomic(folder / CONFIG, model_config.to_text(config).encode())
    write_atomic(folder / LABELS, labels_text(card.classes).encode())

    engines = {configuration_path(folder, engine.name): engine for engine in engines_of(card)}
    for path in set((folder / CONFIGS).glob("*.pbtxt")) - engines.keys():
        path.unlink()  # of an engine that this version does not have
    for path, engine in engines.items():
        known = model_config.read_config(path) if options is None and path.is_file() else None
        write_atomic(path, model_config.to_text(configuration(engine, config, known)).encode())


def labels_text(classes: Sequence[str]) -> str:
    """The content of ``labels.txt``: a class a line.

    Raises:
        ArtifactError: a class name that is more than one line, or contains control characters.
    """
    check_class_names(classes, ArtifactError)
    return "".join(f"{name}\n" for name in classes)
