"""Check that files, card, configurations and graphs of a model agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, MODEL, PROBABILITIES, Card, read_card
from shrinkserve.engines import check_files, engines_of
from shrinkserve.errors import ArtifactError, ParityError, ShrinkServeError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.best_lines import hash_in_file
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.model_config import CONFIG, LABELS
from shrinkserve.serving.names import model_names, models_behind, public_name
from shrinkserve.serving.repository import ensemble
from shrinkserve.serving.repository.activation import has_labels
from shrinkserve.serving.repository.derived_configs import LINES_HASH
from shrinkserve.serving.repository.engine_config import engine_config, engine_config_path
from shrinkserve.serving.repository.trust import runs_code
from shrinkserve.serving.repository.writer import Repository


def open_verified(folder: Path) -> tuple[Card, OnnxModel]:
    """Open a version after every check that needs no server.

    Args:
        folder: the folder with ``model.onnx`` and ``card.json``.

    Raises:
        ArtifactError: a file or graph that does not match the card.
        ParityError: the card records a failed parity check.
    """
    card = read_card(folder, "onnx")
    if MODEL not in card.files:
        raise ArtifactError(f"{folder}: its card does not name {MODEL}", hint="export the model again")
    check_files(card)
    model = OnnxModel(folder / MODEL)
    _same(folder, "image size", Preprocess.from_dict(card.preprocess).size, model.size)
    _same(folder, "number of classes", len(card.classes), len(model.classes))
    failed = [str(check.get("step", check.get("check"))) for check in card.checks if check.get("passed") is False]
    if failed:
        raise ParityError(f"{folder}: its card records a failed check ({', '.join(failed)})", hint="export it again")
    return card, model


def problems(repository: Repository, name: str) -> Iterator[str]:
    """Yield one line for each problem of a model and all its versions."""
    root, active = repository.root, None
    try:
        for part in dict.fromkeys([name, *models_behind(name)]):
            if (root / part).is_dir() and (why := runs_code(root / part)):
                yield f"{root / part}: runs code ({why}); remove the model unless you trust who wrote it"
        config = repository.config(name)
        active = model_config.active_version(config)
        card, model = open_verified(repository.known_version(name, active))
        yield from _disagreements(root / name, config, card, model)
        yield from _engine_problems(root / name, config, card)
        if ensemble.takes_encoded(root, name) and (
            why := ensemble.misfit(root, root / name) or _other_lines(root, name)
        ):
            yield f"{root}: {why}; run `shrinkserve repo add-jpeg {public_name(name)}`"
    except ShrinkServeError as exc:
        yield str(exc)
    for version in repository.versions(name):
        if version != active:
            yield from _damage(root / name / str(version))


def _disagreements(folder: Path, config: pb.ModelConfig, card: Card, model: OnnxModel) -> Iterator[str]:
    """Yield the differences between the configuration and the active version."""
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
    if not has_labels(folder, card.classes):
        yield f"{folder / LABELS}: not the classes of the card"


def _misfits(where: str, config: pb.ModelConfig, model: OnnxModel) -> Iterator[str]:
    """Yield the differences in inputs, outputs and batch size between a configuration and a graph."""
    size, channels, classes = model.size, model.session.get_inputs()[0].shape[3], len(model.classes)
    real = {
        f"input {INPUT}": f"TYPE_UINT8 {[size, size, channels]}",
        f"output {LOGITS}": f"TYPE_FP32 {[classes]}",
        f"output {PROBABILITIES}": f"TYPE_FP32 {[classes]}",
    }
    promised = {
        f"{kind} {tensor.name}": f"{pb.DataType.Name(tensor.data_type)} {list(tensor.dims)}"
        for kind, tensors in (("input", config.input), ("output", config.output))
        for tensor in tensors
    }
    batch = model.session.get_inputs()[0].shape[0]
    if isinstance(batch, int) and batch != config.max_batch_size:  # a name stands for any number
        real["batch"], promised["batch"] = f"{batch} images", f"up to {config.max_batch_size}"
    for key in sorted(real.keys() | promised.keys()):
        file, written = real.get(key, "none"), promised.get(key, "none")
        if file != written:
            yield f"{where}: {key}: the file has {file}, the config {written}"


def _engine_problems(folder: Path, config: pb.ModelConfig, card: Card) -> Iterator[str]:
    """Yield the problems of the engines' configurations and files."""
    for engine in engines_of(card):
        path = engine_config_path(folder, engine.name)
        found = config_text.read_config(path)
        yield from _differences(path, found, engine_config(engine, config, found))
        place = folder / str(model_config.active_version(config)) / engine.file
        if place.suffix == ".onnx":
            yield from _misfits(str(path), found, OnnxModel(place))
        for file, built in engine.plans.items():  # a plan can only be opened on its GPU
            largest = built.get("batches", [found.max_batch_size])[-1]
            if found.max_batch_size > largest:
                yield f"{path}: batch: {file} takes up to {largest}, the config up to {found.max_batch_size}"


def _differences(path: Path, found: pb.ModelConfig, wanted: pb.ModelConfig) -> Iterator[str]:
    """Yield the differences between an engine's configuration and the one that the active version needs."""
    left, right = (dict(_leaves(json_format.MessageToDict(one))) for one in (wanted, found))
    for key in sorted(left.keys() | right.keys()):
        if left.get(key) != right.get(key):
            expected, actual = (str(one.get(key, "none"))[:60] for one in (left, right))
            yield f"{path}: {key}: the active version has {expected}, the config {actual}"


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    """Yield the scalars and lists of scalars in nested data with their paths."""
    if isinstance(value, dict):
        items: list[tuple[object, object]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = list(enumerate(value))
    else:
        yield where, value
        return
    for key, item in items:
        yield from _leaves(item, f"{where}.{key}" if where else str(key))


def _other_lines(root: Path, name: str) -> str | None:
    """Return why the graph of a classifier's text has other lines than its configuration; None if it has the same."""
    folder = root / model_names(name).lines
    wanted = model_config.parameters(config_text.read_config(folder / CONFIG))[LINES_HASH]
    try:
        found = hash_in_file(folder / "1" / MODEL)
    except ArtifactError as exc:
        return str(exc)
    return None if found == wanted else f"{folder.name}/1/{MODEL}: not the classes of {name}"


def _damage(version: Path) -> Iterator[str]:
    """Yield the first missing or changed file of a version."""
    try:
        read_card(version)
    except ShrinkServeError as exc:
        yield str(exc)


def _same(folder: Path, what: str, card: int, file: int) -> None:
    if card != file:
        raise ArtifactError(
            f"{folder}: {what}", expected=f"{card} as its card says", found=file, hint="export the model again"
        )
