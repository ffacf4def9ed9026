"""The protocol of everything that predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import CARD, read_card, verify_file
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.metadata import read_description

Images = npt.NDArray[np.uint8]
"""uint8 [N, S, S, 3], RGB at the network's size, not normalised."""
Logits = npt.NDArray[np.float32]
"""float32 [N, classes]."""


def check_images(images: Images, size: int) -> None:
    """Check the batch that a caller passes to a predictor.

    Raises:
        DataError: another type or shape than uint8 [N, size, size, 3], or [N, size, size, 1] for grey images.
    """
    kind: object = getattr(images, "dtype", type(images).__name__)
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if kind != np.uint8 or len(shape) != 4 or tuple(shape[1:3]) != (size, size) or shape[3] not in {1, 3}:
        hint = "use `shrinkserve.predict` for files and for images of other sizes"
        raise DataError("images", expected=f"uint8 [N, {size}, {size}, 3]", found=f"{kind} {list(shape)}", hint=hint)


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
        """Return the logits of a batch of any size from 1.

        Raises:
            DataError: the images have another type or shape.
        """
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
