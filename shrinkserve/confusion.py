"""Figures per class and the most frequent errors of a classifier, from its confusion matrix."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NO_PREDICTION = -1
"""Prediction of an image whose logits are not finite."""


@dataclass(frozen=True)
class ConfusionCell:
    """Images of class `label` that were predicted as class `prediction`; positions in the order of the logits."""

    label: int
    prediction: int
    images: int


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another one."""

    label: str
    prediction: str
    images: int


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Attributes:
        name: the class.
        precision: correct part of the images predicted as this class; 0 if there are none.
        recall: part of the class's images that are predicted as it; 0 if there are none.
        f1: harmonic mean of precision and recall.
        support: images of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def merge_cells(*parts: Iterable[ConfusionCell]) -> list[ConfusionCell]:
    """Return the sum of confusion matrices."""
    images: Counter[tuple[int, int]] = Counter()
    for cells in parts:
        for cell in cells:
            images[cell.label, cell.prediction] += cell.images
    return [ConfusionCell(*pair, count) for pair, count in sorted(images.items())]


def class_figures(classes: Sequence[str], cells: Iterable[ConfusionCell]) -> list[ClassFigures]:
    """Return precision, recall, F1 and support of each class, in the order of `classes`."""
    right, support, predicted = ([0] * (len(classes) + 1) for _ in range(3))
    for cell in cells:
        support[cell.label] += cell.images
        predicted[cell.prediction] += cell.images  # NO_PREDICTION is the position after the last class
        right[cell.label] += cell.images if cell.label == cell.prediction else 0
    return [
        ClassFigures(name, hits / max(1, own), hits / max(1, images), 2 * hits / max(1, images + own), images)
        for name, hits, images, own in zip(classes, right, support, predicted, strict=False)
    ]


def worst_confusions(classes: Sequence[str], cells: Iterable[ConfusionCell], count: int) -> list[Confusion]:
    """Return the `count` most frequent wrong predictions."""
    wrong = [cell for cell in cells if cell.label != cell.prediction != NO_PREDICTION]
    worst = heapq.nsmallest(count, wrong, key=lambda cell: (-cell.images, cell.label, cell.prediction))
    return [Confusion(classes[cell.label], classes[cell.prediction], cell.images) for cell in worst]
