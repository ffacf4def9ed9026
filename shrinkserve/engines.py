"""Engines of a version: other ways to run one exported model, as its card records them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from shrinkserve.artifact import MODEL, Card, EngineDetails, Json, Precision, check_name
from shrinkserve.errors import ArtifactError, ConfigError

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".onnx", "tensorrt": ".plan"}
"""Backend that a card may name -> suffix of the files that it loads. None of them runs code of the artifact."""
THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
"""Backend -> its parameter for the threads of one instance; 0 means all cores."""
PARAMETERS = frozenset({"INFERENCE_PRECISION_HINT", *THREADS.values()})
"""Keys of the parameters that a card may set. Edit the configuration by hand for others."""
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A plain file name: no folder, and no character with a meaning in a shell."""
BUILT = "built"
"""Key of `Engine.record`: plan file -> what it was built by and for."""
_VALUE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")


@dataclass(frozen=True)
class Engine:
    """Another way to run a version.

    Attributes:
        name: of the configuration ``configs/NAME.pbtxt``.
        backend: of Triton: ``"tensorrt"``, ``"openvino"`` or ``"onnxruntime"``.
        file: the file in the version's folder that the backend loads.
        precision: of the arithmetic.
        capabilities: compute capability, e.g. ``"8.9"`` -> file, for plans of several GPUs.
        parameters: of the backend.
        record: how it was made and checked, as JSON data.
    """

    name: str
    backend: str
    file: str
    precision: Precision = "float32"
    capabilities: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    record: Json = field(default_factory=dict, repr=False)

    @property
    def files(self) -> set[str]:
        """Names of all files that the engine needs."""
        return {self.file, *self.capabilities.values()}

    @property
    def plans(self) -> dict[str, Json]:
        """Plan file -> what it was built by and for."""
        built: dict[str, Json] = self.record.get(BUILT, {})
        return built

    def to_dict(self) -> EngineDetails:
        """Return the engine as its entry in a card."""
        entry = asdict(self)
        del entry["name"]
        details: EngineDetails = entry  # type: ignore[assignment]
        return details


def engines_of(card: Card) -> list[Engine]:
    """Return the engines that a card names, validated and sorted by name.

    A card is untrusted, and these fields become paths and configurations. This is the only reader of them.

    Raises:
        ArtifactError: an engine that `export` would not have written.
    """
    return [_engine(card, name, entry) for name, entry in sorted(card.details.get("engines", {}).items())]


def find_engine(card: Card, name: str) -> Engine | None:
    """Return the engine of a name; None if the card has none.

    Raises:
        ArtifactError: an engine that `export` would not have written.
    """
    return next((engine for engine in engines_of(card) if engine.name == name), None)


def check_files(card: Card) -> None:
    """Reject a card with a file that neither ``model.onnx`` nor an engine accounts for, e.g. ``model.py``.

    Raises:
        ArtifactError: names the first such file.
    """
    known = {MODEL}.union(*(engine.files for engine in engines_of(card)))
    for file in sorted(card.files.keys() - known):
        raise _invalid(card, "files", f"{MODEL} and the files of its engines", file)


def with_engines(card: Card, engines: Mapping[str, Engine], hashes: Mapping[str, str]) -> Card:
    """Return a card that lists `engines` besides its own and the files that they need.

    Args:
        card: of the version.
        engines: name -> engine to add or replace.
        hashes: sha256 of the engines' files; files of `card` need none.
    """
    listed = dict(card.details.get("engines", {}))
    listed |= {name: engine.to_dict() for name, engine in engines.items()}
    card = replace(card, details={**card.details, "engines": listed}, files={**card.files, **hashes})
    needed = {MODEL}.union(*(engine.files for engine in engines_of(card)))
    return replace(card, files={file: card.files[file] for file in card.files if file in needed})


def keep_other_plans(engine: Engine, known: Engine | None) -> Engine:
    """Return `engine` with the plans for other GPUs that the engine of the same name has already."""
    if known is None:
        return engine
    others = {gpu: file for gpu, file in known.capabilities.items() if gpu not in engine.capabilities}
    if not others or known.backend != engine.backend:
        return engine
    built = {file: known.plans[file] for file in others.values() if file in known.plans}
    record = {**engine.record, BUILT: {**built, **engine.plans}}
    return replace(engine, record=record, capabilities={**others, **engine.capabilities})


def _engine(card: Card, name: str, entry: EngineDetails) -> Engine:
    where = f"engine {name[:64]!r}"
    try:
        check_name(name)
        engine = Engine(name, **entry)
    except (TypeError, ConfigError) as exc:
        raise ArtifactError(f"card of {card.name}: {where} ({exc})", hint="do not use this artifact") from exc
    if engine.backend not in SUFFIXES:
        raise _invalid(card, f"{where}: backend", f"one of {', '.join(SUFFIXES)}", engine.backend)
    for part, keys, values in (
        (engine.capabilities, _CAPABILITY, FILE),
        (engine.parameters, FILE, _VALUE),
    ):
        if not all(keys.fullmatch(key) and values.fullmatch(value) for key, value in part.items()):
            raise _invalid(card, f"{where}: capabilities or parameters", "plain names", part)
    if unknown := sorted(engine.parameters.keys() - PARAMETERS):
        raise _invalid(card, f"{where}: parameters", f"keys out of {', '.join(sorted(PARAMETERS))}", unknown[0])
    for file in (engine.file, *engine.capabilities.values()):
        if not FILE.fullmatch(file) or not file.endswith(SUFFIXES[engine.backend]) or file not in card.files:
            raise _invalid(card, f"{where}: file", f"NAME{SUFFIXES[engine.backend]} out of its files", file)
    built = engine.record.get(BUILT, {})
    if not isinstance(built, dict) or not all(isinstance(one, dict) for one in built.values()):
        raise _invalid(card, f"{where}: record", "an object", built)
    return engine


def _invalid(card: Card, what: str, expected: str, found: object) -> ArtifactError:
    hint = "do not use this artifact, or export it again"
    return ArtifactError(f"card of {card.name}: {what}", expected=expected, found=ascii(found)[:100], hint=hint)
