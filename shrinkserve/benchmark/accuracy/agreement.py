"""Agreement of two stages, counted batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shrinkserve.benchmark.accuracy.score import Flags, Labels, finite, is_right
from shrinkserve.benchmark.stats import mcnemar
from shrinkserve.benchmark.targets.target import Logits

LISTED_FLIPS = 1000
"""Most flips that a comparison lists; further ones are only counted, so that memory is bounded."""


@dataclass(frozen=True)
class Flip:
    """Image for which two stages predict different classes.

    A margin is the distance in logits from the best class to the second best. It is None if logits are not finite or
    there is one class only.
    """

    index: int
    name: str
    label: int
    before: int
    after: int
    margin_before: float | None
    margin_after: float | None


@dataclass(frozen=True)
class ComparisonRecord:
    """Agreement of two stages; see `Agreement` for the fields."""

    before: str
    after: str
    gated: bool
    images: int
    flips: int
    lost: int
    gained: int
    worst: float | None
    listed: list[Flip]
    mcnemar_p: float


@dataclass
class Agreement:
    """Differences between the predictions of two stages on the same images.

    Attributes:
        before: name of the earlier stage.
        after: name of the later one.
        gated: True if both must give the same predictions.
        images: number of images.
        flips: images with different top-1 classes.
        lost: images that only the earlier stage predicts correctly.
        gained: images that only the later stage predicts correctly.
        worst: largest absolute difference of a logit; None if a logit is not finite.
        listed: the first `LISTED_FLIPS` flips.
    """

    before: str
    after: str
    gated: bool = False
    images: int = 0
    flips: int = 0
    lost: int = 0
    gained: int = 0
    worst: float | None = 0.0
    listed: list[Flip] = field(default_factory=list)

    def add(self, before: Logits, after: Logits, labels: Labels, indices: Labels, name: Callable[[int], str]) -> None:
        """Count a batch.

        Args:
            before: float32 logits [N, C] of the earlier stage.
            after: float32 logits [N, C] of the later one.
            labels: int64 [N].
            indices: int64 [N], positions of the images in the dataset.
            name: returns the name of the image at a position; called for flips only.
        """
        was, now = is_right(before, labels), is_right(after, labels)
        self.images += len(labels)
        self.lost += int((was & ~now).sum())
        self.gained += int((~was & now).sum())
        self.worst = _larger(self.worst, largest_difference(before, after))
        flipped = np.flatnonzero(~same_prediction(before, after))
        self.flips += len(flipped)
        for i in flipped[: max(0, LISTED_FLIPS - len(self.listed))]:
            pair = int(before[i].argmax()), int(after[i].argmax())
            margins = margin(before[i]), margin(after[i])
            index = int(indices[i])
            self.listed.append(Flip(index, name(index), int(labels[i]), *pair, *margins))

    def merge(self, other: Agreement) -> None:
        """Add the counts of other images."""
        self.images += other.images
        self.flips += other.flips
        self.lost += other.lost
        self.gained += other.gained
        self.worst = _larger(self.worst, other.worst)
        self.listed += other.listed[: LISTED_FLIPS - len(self.listed)]

    def to_record(self) -> ComparisonRecord:
        """Return the counts with McNemar's p-value."""
        return ComparisonRecord(**vars(self), mcnemar_p=mcnemar(self.lost, self.gained))


def same_prediction(before: Logits, after: Logits) -> Flags:
    """Return True where both predict the same class [N]; rows with NaN or inf never match."""
    both = np.logical_and(finite(before), finite(after))
    flags: Flags = np.logical_and(both, before.argmax(axis=1) == after.argmax(axis=1))
    return flags


def margin(logits: Logits) -> float | None:
    """Return the distance from the largest to the second largest of one image's logits [C]; see `Flip`."""
    if len(logits) < 2:
        return None
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second) if np.isfinite(logits).all() else None


def largest_difference(before: Logits, after: Logits) -> float | None:
    """Return the largest absolute difference of two batches of logits; None if one of them is not finite."""
    if not (finite(before).all() and finite(after).all()):
        return None
    return float(np.abs(before - after).max(initial=0.0))


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)
