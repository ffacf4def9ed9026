"""Accuracy of a stage and agreement of two stages, counted batch by batch."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shrinkserve.benchmark.stats import Estimate, mcnemar, wilson
from shrinkserve.benchmark.targets.target import Logits
from shrinkserve.calibration import Calibration, CalibrationRecord
from shrinkserve.confusion import NO_PREDICTION, ConfusionCell, merge_cells

LISTED_FLIPS = 1000
"""Most flips that a comparison lists; further ones are only counted, so that memory is bounded."""

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


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
class Proportion(Estimate):
    """Fraction of images with its confidence interval, and the number of images."""

    right: int


@dataclass(frozen=True)
class ScoreRecord:
    """Accuracy of a stage; `right` is the packed form of `Score.right`."""

    stage: str
    images: int
    top1: Proportion
    top5: Proportion
    right: str
    unit: str = "fraction of images"
    calibration: CalibrationRecord | None = None


@dataclass
class Score:
    """Counts of correct predictions of a stage.

    Attributes:
        stage: name of the stage.
        images: number of images.
        top1: images whose label was the prediction.
        top5: images whose label was among the five best classes.
        right: one character for each image, ``"1"`` for a correct prediction, to compare releases image by image.
        calibration: counts by confidence.
        temperature: divisor of the logits in the probabilities.
    """

    stage: str
    images: int = 0
    top1: int = 0
    top5: int = 0
    right: str = ""
    calibration: Calibration = field(default_factory=Calibration)
    temperature: float = 1.0

    def add(self, logits: Logits, labels: Labels) -> None:
        """Count a batch: logits [N, C], labels [N]."""
        right = is_right(logits, labels)
        self.images += len(labels)
        self.top1 += int(right.sum())
        self.right += "".join("01"[int(one)] for one in right)
        self.top5 += int(in_top(logits, labels, 5).sum())
        valid = finite(logits)
        self.calibration.add(logits[valid] / np.float32(self.temperature), labels[valid])

    def merge(self, other: Score) -> None:
        """Add the counts of other images."""
        self.images += other.images
        self.top1 += other.top1
        self.top5 += other.top5
        self.right += other.right
        self.calibration.merge(other.calibration)

    def to_record(self) -> ScoreRecord:
        """Return fractions with their Wilson intervals."""
        return ScoreRecord(
            stage=self.stage,
            images=self.images,
            top1=self._proportion(self.top1),
            top5=self._proportion(self.top5),
            right=pack_flags(self.right),
            calibration=self.calibration.to_record(),
        )

    def _proportion(self, right: int) -> Proportion:
        ends = wilson(right, self.images)
        return Proportion(ends.low, ends.high, value=right / self.images if self.images else 0.0, right=right)


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


def pack_flags(right: str) -> str:
    """Return `Score.right` as base64 text, eight images in a byte."""
    flags = np.frombuffer(right.encode(), np.uint8) == ord("1")
    return b64encode(np.packbits(flags).tobytes()).decode()


def unpack_flags(packed: str, images: int) -> Flags:
    """Return the result of `pack_flags` as flags [images]."""
    bits: Flags = np.unpackbits(np.frombuffer(b64decode(packed), np.uint8), count=images).astype(np.bool_)
    return bits


def confusion_cells(logits: Logits, labels: Labels) -> list[ConfusionCell]:
    """Return the confusion matrix of a batch: logits [N, C], labels [N]."""
    predictions = np.where(finite(logits), logits.argmax(axis=1), NO_PREDICTION)
    return merge_cells(ConfusionCell(*pair, 1) for pair in zip(labels.tolist(), predictions.tolist(), strict=True))


def is_right(logits: Logits, labels: Labels) -> Flags:
    """Return True where the prediction is the label [N]; of equal logits the first class is the prediction."""
    flags: Flags = np.logical_and(finite(logits), logits.argmax(axis=1) == labels)
    return flags


def in_top(logits: Logits, labels: Labels, k: int) -> Flags:
    """Return True where fewer than `k` classes have a larger logit than the label's [N]."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    flags: Flags = np.logical_and(finite(logits), (logits > own).sum(axis=1) < k)
    return flags


def same_prediction(before: Logits, after: Logits) -> Flags:
    """Return True where both predict the same class [N]; rows with NaN or inf never match."""
    both = np.logical_and(finite(before), finite(after))
    flags: Flags = np.logical_and(both, before.argmax(axis=1) == after.argmax(axis=1))
    return flags


def finite(logits: Logits) -> Flags:
    """Return True where all logits of an image are finite [N]."""
    flags: Flags = np.logical_and.reduce(np.isfinite(logits), axis=1)
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
