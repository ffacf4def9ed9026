"""Cards: what an artifact is, what it was made from, and the sha256 of its files.

Every stage writes ``card.json`` last, next to the files. A folder with a card is a finished artifact.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import Required, TypedDict

from shrinkserve.artifact.files import safe_join, verify_file
from shrinkserve.artifact.provenance import versions
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

CARD = "card.json"
MAX_CARD_BYTES = 64 << 20
"""Largest card that is read; ShrinkCNN-A's has 200 kB."""
Precision = Literal["float32", "float16", "bfloat16", "int8"]
"""Precisions of a graph's arithmetic."""
Json = dict[str, Any]
"""A JSON object whose keys one stage alone knows."""
_STRICT: ConfigDict = {"strict": True, "extra": "forbid"}


class EngineDetails(TypedDict, total=False):
    """One entry of `CardDetails.engines`; see `shrinkserve.engines.Engine` for the fields."""

    backend: Required[str]
    file: Required[str]
    precision: Precision
    capabilities: dict[str, str]
    parameters: dict[str, str]
    record: Json


class CardDetails(TypedDict, total=False):
    """Stage-specific entries of a card.

    Attributes:
        command: the command line of the training (checkpoints).
        git: commit and changed files of the code (checkpoints).
        data: folder of the dataset, for the next stage.
        precision: of the arithmetic of ``model.onnx``.
        target: the runtime that the graph passes were chosen for.
        max_batch: the largest batch that was checked.
        temperature: divisor of the logits before the softmax of the probabilities; absent without calibration.
        steps: one record for each export step.
        tuning: timings that chose the graph passes.
        engines: name -> other engine of this version.
    """

    command: list[str]
    git: Json | None
    data: str | None
    precision: Precision
    target: str
    max_batch: int
    temperature: float
    steps: list[Json]
    tuning: list[Json]
    engines: dict[str, EngineDetails]


EngineDetails.__pydantic_config__ = CardDetails.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Card:
    """Provenance of one artifact, stored as ``card.json`` in its folder.

    Attributes:
        kind: ``"checkpoint"`` or ``"onnx"``.
        name: the model's name in Triton.
        weights: which weights of the run, ``"ema"`` or ``"raw"``.
        weights_sha256: hash of the weight tensors; the same for checkpoint, ONNX file and engines.
        files: file name (relative to the card's folder) -> sha256.
        parents: path -> sha256 of what this was made from.
        preprocess: `shrinkserve.preprocess.Preprocess.to_dict()`.
        classes: class names in the order of the logits.
        spec: the network as node-link data (checkpoints only).
        recipe: the frozen recipe (checkpoints only).
        metrics: figures measured on the artifact, e.g. ``{"top1": 0.98}`` as fractions.
        checks: one record for each check: name, tolerance, worst difference, flips.
        details: see `CardDetails`.
        created: UTC time, ISO 8601.
        versions: of Python, the operating system, this package and the libraries that took part.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    name: str
    weights: str = "ema"
    weights_sha256: str = ""
    files: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    preprocess: Json = field(default_factory=dict)
    classes: list[str] = field(default_factory=list, repr=False)
    spec: Json = field(default_factory=dict, repr=False)
    recipe: Json = field(default_factory=dict, repr=False)
    metrics: Json = field(default_factory=dict)
    checks: list[Json] = field(default_factory=list, repr=False)
    details: CardDetails = field(default_factory=CardDetails, repr=False)
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def precision(self) -> Precision:
        """Precision of ``model.onnx``."""
        return self.details.get("precision", "float32")

    def write(self, folder: Path) -> Path:
        """Write the card into `folder` atomically and return its path.

        Raises:
            ArtifactError: a value is NaN or infinite, or the folder cannot be written.
        """
        path = folder / CARD
        try:
            content = json.dumps(asdict(self), indent=1, allow_nan=False)
        except ValueError as exc:
            hint = "the run diverged: lower optimizer.lr"
            raise ArtifactError(f"{path}: cannot record a value that is not finite", hint=hint) from exc
        write_atomic(path, f"{content}\n".encode())
        return path


def read_card(folder: Path, kind: str | None = None, *, verify: bool = True) -> Card:
    """Read the card of an artifact's folder.

    Args:
        folder: the folder with ``card.json``.
        kind: the required kind of artifact; None accepts any.
        verify: hash every file of the card and reject a mismatch.

    Raises:
        ArtifactError: the card is missing or invalid, its kind differs, or a file is missing or changed.
    """
    path = folder / CARD
    try:
        with path.open("rb") as stream:
            card = _parse_card(path, stream.read(MAX_CARD_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path}: no such card", hint="name the folder that `train` or `export` wrote") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: not a readable card ({exc})", hint="make the artifact again") from exc
    if kind is not None and card.kind != kind:
        hint = "export the run first" if card.kind == "checkpoint" else "name a folder that `train` wrote"
        raise ArtifactError(f"{path}: wrong kind of artifact", expected=kind, found=card.kind, hint=hint)
    if verify:
        for name, expected in card.files.items():
            verify_file(safe_join(folder, name), expected)
    return card


def _parse_card(path: Path, content: bytes) -> Card:
    """Parse a card from an untrusted file; raise `ValueError` if it is not JSON."""
    from pydantic import ValidationError

    if len(content) > MAX_CARD_BYTES:
        raise ValueError(f"more than {MAX_CARD_BYTES} bytes")
    raw = json.loads(content, parse_constant=_reject_constant)
    json.dumps(raw, ensure_ascii=False).encode()  # rejects lone surrogates
    try:
        return _adapter().validate_json(content)
    except ValidationError as exc:
        raise _invalid_card(path, raw, exc) from exc


@cache
def _adapter() -> TypeAdapter[Card]:
    from pydantic import TypeAdapter

    return TypeAdapter(Card)


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _invalid_card(path: Path, raw: Any, error: ValidationError) -> ArtifactError:
    """Return the error for the first invalid field; name both versions if the field is unknown here."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    reason = ascii(f"{where}: {first['msg']}" if where else first["msg"])[1:-1][:200]
    hint = "make the artifact again"
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        written = raw.get("versions") if isinstance(raw, dict) else None
        by = written.get("shrinkserve", "unknown") if isinstance(written, dict) else "unknown"
        hint = f"written by shrinkserve {ascii(by)[:40]}, this is {versions()['shrinkserve']}; use that version"
    return ArtifactError(f"{path}: not a readable card ({reason})", hint=hint)
