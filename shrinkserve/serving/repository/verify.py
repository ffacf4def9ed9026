"""Does a model in a repository hold together: its files, its card, its configuration and its graph?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, MODEL, PROBABILITIES, Card, read_card
from shrinkserve.engines import check_files, engines_of
from shrinkserve.errors import ArtifactError, ParityError, ShrinkServeError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel, check_weights
from shrinkserve.serving import model_config
from shrinkserve.serving.model_config import LABELS
from shrinkserve.serving.names import names_of_ensemble, public_name
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.activation import labels_text
from shrinkserve.serving.repository.engine_config import engine_config, engine_config_path
from shrinkserve.serving.repository.trust import runs_code
from shrinkserve.serving.repository.writer import Repository


def open_verified(folder: Path) -> tuple[Card, OnnxModel]:
    """Open what `export` wrote, after every check that needs no server.

    Args:
        folder: holds ``model.onnx`` and ``card.json``.

    Raises:
        ArtifactError: a file that is not the one of the card, or a graph that is not what the card says.
        ParityError: the card records a parity check that failed.
    """
    card = read_card(folder, "onnx")
    if MODEL not in card.files:
        raise ArtifactError(f"{folder}: its card does not name {MODEL}", hint="export the model again")
    check_files(card)
    model = OnnxModel(folder / MODEL)
    check_weights(folder / MODEL)
    _same(folder, "image size", Preprocess.from_dict(card.preprocess).size, model.size)
    _same(folder, "number of classes", len(card.classes), len(model.classes))
    failed = [str(check.get("step", check.get("check"))) for check in card.checks if check.get("passed") is False]
    if failed:
        raise ParityError(f"{folder}: its card records a failed check ({', '.join(failed)})", hint="export it again")
    return card, model


def problems(repository: Repository, name: str) -> Iterator[str]:
    """Everything that is wrong with a model, a line each; every version is looked at."""
    root, active = repository.root, None
    try:
        for part in dict.fromkeys([name, *names_of_ensemble(name)]):
            if (root / part).is_dir() and (why := runs_code(root / part)):
                yield f"{root / part}: runs code ({why}); remove the model unless you trust who wrote it"
        config = repository.config(name)
        active = model_config.active_version(config)
        card, model = open_verified(repository.known_version(name, active))
        yield from _disagreements(root / name, config, card, model)
        yield from _engine_problems(root / name, config, card)
        if ensemble.takes_encoded(root, name) and (exc := ensemble.misfit(root, root / name)):
            yield f"{root}: {exc}; run `shrinkserve repo add-jpeg {public_name(name)}`"
    except ShrinkServeError as exc:
        yield str(exc)
    for version in repository.versions(name):
        if version != active:
            yield from _damage(root / name / str(version))


def _disagreements(folder: Path, config: pb.ModelConfig, card: Card, model: OnnxModel) -> Iterator[str]:
    """Where the configuration and the version that answers say different things."""
    yield from _misfits(str(folder), config, model)
    own = model_config.parameters(config)
    for key, value in (
        ("contract", Preprocess.from_dict(card.preprocess).fingerprint),
        ("weights_sha256", card.weights_sha256),
    ):
        if own.get(key, "") != value:
            yield f"{folder}: {key}: the card has {value[:16]}, the config {own.get(key, '')[:16] or 'none'}"
    if config.name != folder.name:
        yield f"{folder}: the config is of a model named {config.name!r}"
    if not (folder / LABELS).is_file() or (folder / LABELS).read_text(encoding="utf-8") != labels_text(card.classes):
        yield f"{folder / LABELS}: not the classes of the card"


def _misfits(where: str, config: pb.ModelConfig, model: OnnxModel) -> Iterator[str]:
    """Where a configuration promises other inputs, outputs or batches than a graph has."""
    size, classes = model.size, len(model.classes)
    real = {
        f"input {INPUT}": f"TYPE_UINT8 {[size, size, 3]}",
        f"output {LOGITS}": f"TYPE_FP32 {[classes]}",
        f"output {PROBABILITIES}": f"TYPE_FP32 {[classes]}",
    }
    promised = {
        f"{kind} {tensor.name}": f"{pb.DataType.Name(tensor.data_type)} {list(tensor.dims)}"
        for kind, tensors in (("input", config.input), ("output", config.output))
        for tensor in tensors
    }
    batch = model.session.get_inputs()[0].shape[0]
    if isinstance(batch, int) and batch != config.max_batch_size:  # else a name: it takes any number
        real["batch"], promised["batch"] = f"{batch} images", f"up to {config.max_batch_size}"
    for key in sorted(real.keys() | promised.keys()):
        file, said = real.get(key, "none"), promised.get(key, "none")
        if file != said:
            yield f"{where}: {key}: the file has {file}, the config {said}"


def _engine_problems(folder: Path, config: pb.ModelConfig, card: Card) -> Iterator[str]:
    """Where an engine's configuration is missing, or promises another thing than the model's own or its file."""
    for engine in engines_of(card):
        path = engine_config_path(folder, engine.name)
        found = model_config.read_config(path)
        yield from _differences(path, found, engine_config(engine, config, found))
        place = folder / str(model_config.active_version(config)) / engine.file
        if place.suffix == ".onnx":
            yield from _misfits(str(path), found, OnnxModel(place))
        for file, built in engine.plans.items():  # a plan can be opened on its own GPU only
            largest = built.get("batches", [found.max_batch_size])[-1]
            if found.max_batch_size > largest:
                yield f"{path}: batch: {file} takes up to {largest}, the config up to {found.max_batch_size}"


def _differences(path: Path, found: pb.ModelConfig, wanted: pb.ModelConfig) -> Iterator[str]:
    """Where an engine's configuration is not what follows from the version that answers."""
    said, due = (dict(_leaves(json_format.MessageToDict(one))) for one in (found, wanted))
    for key in sorted(said.keys() | due.keys()):
        if said.get(key) != due.get(key):
            shown = [str(one.get(key, "none"))[:60] for one in (due, said)]
            yield f"{path}: {key}: the version that answers has {shown[0]}, the config {shown[1]}"


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers, texts and lists of these in nested data, by their paths."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = list(enumerate(value))
    else:
        yield where, value
        return
    for key, item in items:
        yield from _leaves(item, f"{where}.{key}" if where else str(key))


def _damage(version: Path) -> Iterator[str]:
    """The first file of a version that is missing or was changed."""
    try:
        read_card(version)
    except ShrinkServeError as exc:
        yield str(exc)


def _same(folder: Path, what: str, card: int, file: int) -> None:
    if card != file:
        raise ArtifactError(
            f"{folder}: {what}", expected=f"{card} as its card says", found=file, hint="export the model again"
        )
