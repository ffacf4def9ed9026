"""Do two artifacts answer alike? The same questions after every step of an export."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shrinkserve.errors import ParityError
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.predictor import Images, Logits, Predictor

FEW = 10
"""Images that the small batch sizes are asked with; the largest one is asked with all."""


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be apart.

    Attributes:
        absolute: of a logit, in units of the largest reference logit or of 1, whichever is larger.
        flips: fraction of images whose top-1 may change, whatever it was. None: it may change where the reference has
            the two classes nearly tied, and nowhere else.
    """

    absolute: float
    flips: float | None = None


FLOAT32 = Tolerance(1e-4)
NEAR_TIE = 0.5
"""Classes are nearly tied where no more than this part of a logit's tolerance lies between them. Errors within it could
swap classes four times as far apart, but it is there for the worst of all logits: a dozen times the usual error."""


@dataclass(frozen=True)
class OutputFlip:
    """An image whose top-1 changed.

    Attributes:
        image: its position.
        right: class that the reference names, by index.
        found: class that the candidate names.
        margin: how far apart the reference has the two, in logits.
    """

    image: int
    right: int
    found: int
    margin: float


@dataclass(frozen=True)
class Parity:
    """The outcome of one comparison; logits throughout.

    Attributes:
        reference: name of what is taken as right.
        candidate: name of what is judged.
        images: how many, and which (`source`).
        batches: batch size -> worst absolute difference from the reference.
        same_image: worst difference between rows that hold the same image.
        permuted: worst difference between a batch and the same batch in another order.
        worst: the worst of `batches`.
        scale: the largest absolute reference logit.
        flips: images whose top-1 changed.
        flipped: the largest margins first, 20 at most.
    """

    reference: str
    candidate: str
    images: int
    source: str
    tolerance: Tolerance
    batches: dict[int, float]
    same_image: float
    permuted: float
    worst: float
    scale: float
    flips: int
    flipped: list[OutputFlip] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """The largest difference that passes, in units of the logits."""
        return self.tolerance.absolute * max(1.0, self.scale)

    @property
    def near_tie(self) -> float:
        """The largest margin of a near tie, in units of the logits."""
        return NEAR_TIE * self.limit

    @property
    def faults(self) -> list[str]:
        """What does not hold, in words; empty when the two answer alike."""
        differences = [(f"batch {size}", value) for size, value in self.batches.items()]
        differences += [("rows of one image", self.same_image), ("permuted rows", self.permuted)]
        # `not <=` and not `>`: a NaN anywhere is a fault.
        faults = [f"{what} differ by {value:.3g}" for what, value in differences if not value <= self.limit]
        return faults + self._flip_faults()

    def _flip_faults(self) -> list[str]:
        if self.tolerance.flips is not None:
            if self.flips <= self.tolerance.flips * self.images:
                return []
            return [f"{self.flips} of {self.images} top-1 answers changed, at most {self.tolerance.flips:.1%} may"]
        if not self.flipped or self.flipped[0].margin <= self.near_tie:
            return []
        worst = self.flipped[0]
        what = f"image {worst.image} changed from output {worst.right} to {worst.found}, {worst.margin:.3g} apart"
        return [f"{what} (a near tie: {self.near_tie:.3g})"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data for a card."""
        batches = {str(size): value for size, value in self.batches.items()}
        return {"check": "parity", **asdict(self), "batches": batches, "passed": not self.faults}


def compare_outputs(
    reference: Predictor, candidate: Predictor, samples: Samples, tolerance: Tolerance = FLOAT32, max_batch: int = 32
) -> Parity:
    """Ask both the same and measure how far the answers are apart.

    The reference answers every image once, in batches of `max_batch`. The candidate answers in batches of 1, 2, 5
    and `max_batch`, then one image in every row, then the rows in another order.

    Raises:
        ParityError: the two do not take images of one size or give as many logits.
    """
    if reference.size != candidate.size or len(reference.classes) != len(candidate.classes):
        described = (f"{a.size}x{a.size} pixels, {len(a.classes)} classes" for a in (reference, candidate))
        expected, found = described
        what = f"{candidate.name} cannot be compared with {reference.name}"
        raise ParityError(what, expected=expected, found=found, hint="compare artifacts of one network")
    right = answer_all(reference, samples.images, max_batch)
    largest = answer_all(candidate, samples.images, max_batch)
    batches = {}
    for size in sorted({1, 2, 5, max_batch} - {0}):
        answers = largest if size == max_batch else answer_all(candidate, samples.images[:FEW], size)
        batches[size] = difference(answers, right[: len(answers)])
    flips = find_flips(right, largest)
    return Parity(
        reference=reference.name,
        candidate=candidate.name,
        images=len(samples),
        source=samples.source,
        tolerance=tolerance,
        batches=batches,
        same_image=_same_image(candidate, samples.images[0], max_batch),
        permuted=_permuted(candidate, samples.images[:max_batch]),
        worst=max(batches.values()),
        scale=float(np.abs(right).max()),
        flips=len(flips),
        flipped=flips[:20],
    )


def assert_parity(parity: Parity, step: str, reference: Predictor, candidate: Predictor, samples: Samples) -> None:
    """Refuse a conversion whose answers are not those of what it came from.

    Raises:
        ParityError: names the step, what differs, and a file that holds the images and both sides' logits.
    """
    if not parity.faults:
        return
    kept = Path(tempfile.mkdtemp(prefix=f"shrinkserve-{step}-")) / "parity.npz"
    images = samples.images[: max(parity.batches)]
    right, found = reference.predict(images), candidate.predict(images)
    np.savez_compressed(kept, images=images, reference=right, candidate=found)
    expected = f"logits within {parity.limit:.3g} of {parity.reference}"
    hint = f"nothing was written; images and both sides' logits are in {kept}"
    raise ParityError(f"step {step}", expected=expected, found=", ".join(parity.faults), hint=hint)


def find_flips(right: Logits, found: Logits) -> list[OutputFlip]:
    """Rows whose largest logit is another one, the largest margins first; float32 [N, classes] both."""
    named, other = right.argmax(axis=1), found.argmax(axis=1)
    rows = np.flatnonzero(named != other)
    flips = [
        OutputFlip(i, int(named[i]), int(other[i]), float(right[i, named[i]] - right[i, other[i]]))
        for i in rows.tolist()
    ]
    return sorted(flips, key=lambda flip: -flip.margin)


def answer_all(answerer: Predictor, images: Images, batch: int) -> Logits:
    """The logits of all images, asked in batches of at most `batch`; float32 [N, classes]."""
    return np.concatenate([answerer.predict(images[i : i + batch]) for i in range(0, len(images), batch)])


def difference(a: Logits, b: Logits) -> float:
    """The largest absolute difference; NaN where either side has one."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _same_image(answerer: Predictor, image: Images, rows: int) -> float:
    answers = answerer.predict(np.repeat(image[None], rows, axis=0))
    return difference(answers, answers[:1])


def _permuted(answerer: Predictor, images: Images) -> float:
    order = np.random.default_rng(0).permutation(len(images))
    return difference(answerer.predict(images[order]), answerer.predict(images)[order])
