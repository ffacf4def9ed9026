"""Accuracy of a stage, counted batch by batch."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shrinkserve.benchmark.stats import Estimate, wilson
from shrinkserve.benchmark.targets.target import Logits
from shrinkserve.calibration import Calibration, CalibrationRecord
from shrinkserve.confusion import NO_PREDICTION, ConfusionCell, merge_cells
from shrinkserve.errors import ArtifactError

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


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


def pack_flags(right: str) -> str:
    """Return `Score.right` as base64 text, eight images in a byte."""
    flags = np.frombuffer(right.encode(), np.uint8) == ord("1")
    return b64encode(np.packbits(flags).tobytes()).decode()


def unpack_flags(packed: str, images: int) -> Flags:
    """Return the result of `pack_flags` as flags [images].

    Raises:
        ArtifactError: `packed` is damaged, or is of another number of images.
    """
    try:
        packed_bits = np.frombuffer(b64decode(packed), np.uint8)
    except ValueError as exc:
        raise ArtifactError(f"cannot decode the flags of the images ({exc})") from exc
    if len(packed_bits) != -(-images // 8):
        raise ArtifactError("flags of the images", expected=f"{images} flags", found=f"{8 * len(packed_bits)}")
    bits: Flags = np.unpackbits(packed_bits, count=images).astype(np.bool_)
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


def finite(logits: Logits) -> Flags:
    """Return True where all logits of an image are finite [N]."""
    flags: Flags = np.logical_and.reduce(np.isfinite(logits), axis=1)
    return flags
