"""The position of a run and what a checkpoint stores besides tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from shrinkserve.data.loaders import LoaderName
from shrinkserve.errors import ArtifactError
from shrinkserve.toml import validate


@dataclass
class Position:
    """Progress of a run.

    Attributes:
        step: updates so far.
        epoch: the current epoch, from 0.
        images: images of the current epoch that all ranks have seen.
        seconds: time spent, over all processes that worked on the run one after the other.
        epoch_seconds: time spent on updates of the current epoch.
        best: top-1 of the best epoch, and the step at its end.
        world: number of processes.
        figures: figures of the last evaluation.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best: tuple[float, int] | None = None
    world: int = 1
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """JSON data of a checkpoint.

    Attributes:
        position: progress.
        recipe: `Recipe.to_dict`.
        classes: class names in the order of the logits.
        spec: the network, `arch.serialise.to_dict`.
        images: number of training images.
        data: fingerprint of each split; empty in checkpoints of older versions.
        parents: path and sha256 of the weights that the run began with.
        teacher: name of the teacher, if there is one.
        loader: of the training images; None in checkpoints of older versions.
        ema_updates: updates of the averaged weights.
        scaler: state of the loss scaler; empty unless the precision is float16.
    """

    position: Position
    recipe: dict[str, object]
    classes: list[str]
    spec: dict[str, object]
    images: int = 0
    data: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    teacher: str = ""
    loader: LoaderName | None = None
    ema_updates: int = 0
    scaler: dict[str, int | float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object], where: str) -> RunState:
        """Check plain data.

        Args:
            raw: what `to_dict` returned.
            where: the checkpoint, for the message.

        Raises:
            ArtifactError: not the state of a run, or written by a version with other fields.
        """
        hint = "use the version of shrinkserve that wrote it"
        return validate(cls, raw, f"{where}: unknown checkpoint format", error=ArtifactError, hint=hint)
