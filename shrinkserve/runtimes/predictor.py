"""The protocol of everything that predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import CARD, read_card, verify_file
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.metadata import read_description

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


def describe_file(
    path: Path, logits: int, properties: Mapping[str, str] | None = None
) -> tuple[list[str], Preprocess | None]:
    """Return the class names and the preprocessing of a model file.

    They come from the ``card.json`` in its folder, or else from the metadata of the file. Without both, or with another
    number of classes, the names are ``"0"``, ``"1"``, ...

    Args:
        path: the file.
        logits: number of logits.
        properties: metadata of the file.

    Raises:
        ArtifactError: the file does not match the card, or its metadata is damaged.
    """
    known: list[str] = []
    preprocess = None
    if (path.parent / CARD).is_file():
        card = read_card(path.parent, verify=False)
        if path.name in card.files:
            verify_file(path, card.files[path.name])
        known, preprocess = card.classes, Preprocess.from_dict(card.preprocess) if card.preprocess else None
    elif properties:
        found = read_description(properties, str(path))
        known, preprocess = found.classes or [], found.preprocess
    return (known if len(known) == logits else [str(index) for index in range(logits)]), preprocess
