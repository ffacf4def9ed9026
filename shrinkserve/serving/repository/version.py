"""Write the folder of one version: ``model.onnx``, the files of its engines and its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shrinkserve.artifact import MODEL, Card, check_name, copy_file, safe_join
from shrinkserve.atomic import remove, unwritable
from shrinkserve.engines import Engine, with_engines
from shrinkserve.errors import ArtifactError


def write_version(place: Path, model_file: Path, card: Card, engines: Sequence[Engine] = ()) -> Card:
    """Write a version into a new folder that `repo publish` takes. A failure leaves no folder.

    Args:
        place: the folder; its parent exists.
        model_file: the ONNX file; further files are taken from its folder.
        card: has the sha256 of the model file and of the files of the engines that it names.
        engines: engines to add to those of the card.

    Returns:
        The card as written.

    Raises:
        ConfigError: an invalid name of an engine.
        ArtifactError: a missing file, one that does not match the card, or a folder that cannot be written.
    """
    with unwritable(place):
        place.mkdir()
    try:
        for file, sha256 in card.files.items():
            source = model_file if file == MODEL else safe_join(model_file.parent, file)
            copy_file(source, safe_join(place, file), sha256)
        card = place_engines(place, model_file.parent, card, engines)
        card.write(place)
    except BaseException:
        remove(place)
        raise
    return card


def place_engines(place: Path, folder: Path, card: Card, engines: Sequence[Engine]) -> Card:
    """Copy the files of engines into a version's folder and return the card with them.

    Args:
        place: the version's staged folder.
        folder: the folder with the engines' files; files that are only in `place` stay.
        card: of the version.
        engines: the engines to add.

    Raises:
        ConfigError: an invalid name of an engine.
        ArtifactError: a missing file, or a folder that cannot be written.
    """
    hashes: dict[str, str] = {}
    for engine in engines:
        check_name(engine.name)
        for file in sorted(engine.files - {MODEL} - hashes.keys()):  # engines may share a file
            source, target = safe_join(folder, file), safe_join(place, file)
            if source.is_file():
                hashes[file] = copy_file(source, target)
            elif file not in card.files:
                raise ArtifactError(f"{source}: no such file", hint="build the engine again")
    return with_engines(card, {engine.name: engine for engine in engines}, hashes) if engines else card
