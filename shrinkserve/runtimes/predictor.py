"""The protocol of everything that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import CARD, read_card
from shrinkserve.preprocess import Preprocess

Images = npt.NDArray[np.uint8]
"""uint8 [N, S, S, 3], RGB at the network's size, not normalised."""
Logits = npt.NDArray[np.float32]
"""float32 [N, classes]."""


class Predictor(Protocol):
    """A network in any runtime.

    Attributes:
        name: for reports.
        size: height and width of its images, in pixels.
        classes: class names in the order of the logits.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def classes(self) -> Sequence[str]: ...

    def predict(self, images: Images) -> Logits:
        """Return the logits of a batch of any size from 1."""
        ...


def describe(path: Path, logits: int) -> tuple[list[str], Preprocess | None]:
    """Return the class names and the preprocessing of a model file, from the ``card.json`` in its folder.

    Without a card, or if the card has another number of classes, the names are ``"0"``, ``"1"``, ...

    Raises:
        ArtifactError: a file of the folder does not match the card.
    """
    card = read_card(path.parent) if (path.parent / CARD).is_file() else None
    known = card.classes if card else []
    classes = known if len(known) == logits else [str(index) for index in range(logits)]
    return classes, Preprocess.from_dict(card.preprocess) if card and card.preprocess else None
