"""Progress events of a training run, passed to the callback of `train`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from shrinkserve.training.update.metrics import Evaluation


class EventKind(Enum):
    """The reason for an event."""

    STEP = "step"
    """An update is done."""
    FIGURES = "figures"
    """Loss and speed of the last updates are known."""
    EPOCH = "epoch"
    """An epoch is done, with its evaluation if one was due."""
    MESSAGE = "message"
    """A line for the user, for example a warning."""


@dataclass(frozen=True)
class StepFigures:
    """Figures of one or more updates, over all processes.

    Attributes:
        loss: mean loss with label smoothing.
        top1: fraction of correct predictions.
        learning_rate: of the last update.
        images_per_second: training speed.
    """

    loss: float
    top1: float
    learning_rate: float
    images_per_second: float


@dataclass(frozen=True)
class TrainEvent:
    """Progress of a run.

    Attributes:
        kind: the reason for the event.
        epoch: finished epochs.
        epochs: of the run.
        step: finished updates of the current epoch.
        steps: updates per epoch.
        figures: for `FIGURES` of the updates since the last event of this kind, for `EPOCH` of the epoch.
        evaluation: for `EPOCH`, if the epoch was evaluated.
        seconds_left: for `EPOCH`, the expected rest of the run.
        message: for `MESSAGE`.
    """

    kind: EventKind
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    figures: StepFigures | None = None
    evaluation: Evaluation | None = None
    seconds_left: float = 0.0
    message: str = ""


Callback = Callable[[TrainEvent], None]
