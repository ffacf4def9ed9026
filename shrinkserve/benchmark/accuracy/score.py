"""Counting right answers and flips: what a batch of logits adds to a score and to a comparison."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.benchmark.stats import mcnemar, wilson
from shrinkserve.benchmark.targets.target import Logits

LISTED_FLIPS = 1000
"""How many flips a comparison lists; further ones are only counted, so that memory is bounded."""

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Flip:
    """One image on which two stages name different classes.

    A margin is the distance in logits from the best class to the second best: small ones are close calls.
    """

    index: int
    name: str
    label: int
    before: int
    after: int
    margin_before: float
    margin_after: float


@dataclass
class Score:
    """How often one stage was right.

    Attributes:
        stage: its name.
        images: how many it was asked about.
        top1: of these, the label was its answer.
        top5: of these, the label was among its five best.
        right: an image a character, in order: ``"1"`` where the label was its answer. A later release is compared
            with these image by image.
    """

    stage: str
    images: int = 0
    top1: int = 0
    top5: int = 0
    right: str = ""

    def add(self, logits: Logits, labels: Labels) -> None:
        """Count one batch: logits [N, C], labels [N]."""
        right = is_right(logits, labels)
        self.images += len(labels)
        self.top1 += int(right.sum())
        self.right += "".join("01"[int(one)] for one in right)
        self.top5 += int(in_top(logits, labels, 5).sum())

    def merge(self, other: Score) -> None:
        """Add the counts of another part of the images."""
        self.images += other.images
        self.top1 += other.top1
        self.top5 += other.top5
        self.right += other.right

    def to_dict(self) -> dict[str, Any]:
        """Fractions with their Wilson intervals."""
        record: dict[str, Any] = {"stage": self.stage, "images": self.images, "unit": "fraction of images"}
        for name, right in (("top1", self.top1), ("top5", self.top5)):
            ends = wilson(right, self.images)
            value = right / self.images if self.images else 0.0
            record[name] = {"right": right, "value": value, "low": ends.low, "high": ends.high}
        return {**record, "right": pack(self.right)}


@dataclass
class Agreement:
    """Two stages on the same images.

    Attributes:
        before: name of the earlier stage.
        after: name of the later one.
        gated: whether the two must give the same answers.
        flips: images with another top-1 class.
        lost: images that were right and are wrong now.
        gained: images that were wrong and are right now.
        worst: largest absolute difference of a logit.
        listed: the first `LISTED_FLIPS` flips.
    """

    before: str
    after: str
    gated: bool = False
    images: int = 0
    flips: int = 0
    lost: int = 0
    gained: int = 0
    worst: float = 0.0
    listed: list[Flip] = field(default_factory=list)

    def add(self, before: Logits, after: Logits, labels: Labels, indices: Labels, name: Callable[[int], str]) -> None:
        """Count one batch.

        Args:
            before: float32 logits [N, C] of the earlier stage.
            after: float32 logits [N, C] of the later one.
            labels: int64 [N].
            indices: int64 [N], the images' positions in the dataset.
            name: what the image at an index is called; asked for flips only.
        """
        was, now = is_right(before, labels), is_right(after, labels)
        self.images += len(labels)
        self.lost += int((was & ~now).sum())
        self.gained += int((~was & now).sum())
        self.worst = max(self.worst, largest_difference(before, after))
        flipped = np.flatnonzero(~same_answer(before, after))
        self.flips += len(flipped)
        for i in flipped[: max(0, LISTED_FLIPS - len(self.listed))]:
            pair = int(before[i].argmax()), int(after[i].argmax())
            margins = margin(before[i]), margin(after[i])
            index = int(indices[i])
            self.listed.append(Flip(index, name(index), int(labels[i]), *pair, *margins))

    def merge(self, other: Agreement) -> None:
        """Add what was found on another part of the images."""
        self.images += other.images
        self.flips += other.flips
        self.lost += other.lost
        self.gained += other.gained
        self.worst = max(self.worst, other.worst)
        self.listed += other.listed[: LISTED_FLIPS - len(self.listed)]

    def to_dict(self) -> dict[str, Any]:
        """Counts, McNemar's p-value and the listed flips, as plain data."""
        return {**asdict(self), "mcnemar_p": mcnemar(self.lost, self.gained)}


def pack(right: str) -> str:
    """`Score.right` as base64 text, eight images a byte."""
    flags = np.frombuffer(right.encode(), np.uint8) == ord("1")
    return b64encode(np.packbits(flags).tobytes()).decode()


def unpack(packed: str, images: int) -> Flags:
    """What `pack` made, as flags [images]."""
    bits: Flags = np.unpackbits(np.frombuffer(b64decode(packed), np.uint8), count=images).astype(np.bool_)
    return bits


def is_right(logits: Logits, labels: Labels) -> Flags:
    """Whether the label is the answer [N]; among equal logits the first class is, as for `argmax` everywhere."""
    flags: Flags = np.logical_and(finite(logits), logits.argmax(axis=1) == labels)
    return flags


def in_top(logits: Logits, labels: Labels, k: int) -> Flags:
    """Whether fewer than `k` classes have a larger logit than the label's [N]."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    flags: Flags = np.logical_and(finite(logits), (logits > own).sum(axis=1) < k)
    return flags


def same_answer(before: Logits, after: Logits) -> Flags:
    """Whether both name the same class [N]; an answer that is not finite is nobody's."""
    both = np.logical_and(finite(before), finite(after))
    flags: Flags = np.logical_and(both, before.argmax(axis=1) == after.argmax(axis=1))
    return flags


def finite(logits: Logits) -> Flags:
    """Whether an image's logits are all numbers [N]: NaN must never pass for an answer."""
    flags: Flags = np.logical_and.reduce(np.isfinite(logits), axis=1)
    return flags


def margin(logits: Logits) -> float:
    """Distance from the largest to the second largest of one image's logits [C]."""
    if len(logits) < 2:
        return float("inf")
    second, first = np.partition(logits, -2)[-2:]
    return float(first - second)


def largest_difference(before: Logits, after: Logits) -> float:
    """Largest absolute difference of two batches of logits; infinite when one of them is not finite."""
    if not (finite(before).all() and finite(after).all()):
        return float("inf")
    return float(np.abs(before - after).max(initial=0.0))
