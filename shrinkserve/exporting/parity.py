"""Compare the outputs of two artifacts on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from platformdirs import user_cache_path

from shrinkserve.errors import ParityError
from shrinkserve.exporting.records import ParityRecord
from shrinkserve.exporting.samples import Samples
from shrinkserve.runtimes.predictor import Images, Logits, Predictor

FEW = 10
"""Images for the small batch sizes; the largest size runs on all images."""

SMALL_BATCHES = (1, 2, 5)
"""Batch sizes that every candidate runs with, besides the largest."""

FAILURES = user_cache_path("shrinkserve") / "parity"
"""Folder for the images and logits of a failed comparison."""


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed difference between outputs.

    Attributes:
        absolute: of a logit, in units of the largest reference logit or of 1, whichever is larger.
        flips: fraction of images whose top-1 may change. None: top-1 may change only where the reference logits of
            the two classes are nearly tied.
    """

    absolute: float
    flips: float | None = None


FLOAT32 = Tolerance(1e-4)
TOLERANCES: Mapping[str, Tolerance] = {
    "float32": FLOAT32,
    "float16": Tolerance(0.01),
    "bfloat16": Tolerance(0.08),
    "int8": Tolerance(0.01, flips=0.02),
}
"""Precision of a graph -> tolerance of a rewrite of it. Mantissas of 11 and 8 bits round at 2^-11 and 2^-8: twenty
roundings for the worst logit of the worst image. Eight-bit graphs round at their own steps, whatever rewrites them."""
NEAR_TIE = 0.5
"""Two classes count as tied if their reference logits differ by at most NEAR_TIE x tolerance. In the worst case, errors
within the tolerance could swap classes 4x further apart, but the tolerance is sized for the worst logit, about 12x the
typical error."""


@dataclass(frozen=True)
class OutputFlip:
    """An image whose top-1 changed.

    Attributes:
        image: its position.
        right: index of the reference's class.
        found: index of the candidate's class.
        margin: difference of their reference logits.
    """

    image: int
    right: int
    found: int
    margin: float


@dataclass(frozen=True)
class Parity:
    """The result of one comparison of logits.

    Attributes:
        reference: name of the artifact that is taken as right.
        candidate: name of the artifact under test.
        images: number of images.
        source: which images.
        tolerance: largest allowed difference.
        batches: batch size -> worst absolute difference from the reference.
        same_image: worst difference between rows that hold the same image.
        permuted: worst difference between a batch and the same batch in another order.
        worst: the worst of `batches`.
        scale: the largest absolute reference logit.
        flips: number of images whose top-1 changed.
        flipped: the 20 of them with the largest margins.
        classes: class names in the order of the logits; not recorded in cards.
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
    classes: list[str] = field(default_factory=list, repr=False)

    @property
    def limit(self) -> float:
        """The largest difference that passes, in units of the logits."""
        return self.tolerance.absolute * max(1.0, self.scale)

    @property
    def near_tie(self) -> float:
        """The largest margin of a near tie, in units of the logits."""
        return NEAR_TIE * self.limit

    @property
    def violations(self) -> list[str]:
        """Return the differences beyond the tolerance, in words; empty if the comparison passes."""
        differences = [(f"batch {size}", value) for size, value in self.batches.items()]
        differences += [("rows of one image", self.same_image), ("permuted rows", self.permuted)]
        # `not <=` instead of `>` also reports NaN.
        found = [f"{what} differ by {value:.3g}" for what, value in differences if not value <= self.limit]
        return found + self._flip_violations()

    def _flip_violations(self) -> list[str]:
        if self.tolerance.flips is not None:
            if self.flips <= self.tolerance.flips * self.images:
                return []
            return [f"{self.flips} of {self.images} top-1 predictions changed, at most {self.tolerance.flips:.1%} may"]
        if not self.flipped or self.flipped[0].margin <= self.near_tie:
            return []
        worst = self.flipped[0]
        what = f"image {worst.image} changed from output {worst.right} to {worst.found}, {worst.margin:.3g} apart"
        return [f"{what} (a near tie: {self.near_tie:.3g})"]

    def to_dict(self) -> ParityRecord:
        """Return JSON data for a card."""
        fields = asdict(self)
        del fields["classes"]
        batches = {str(size): value for size, value in self.batches.items()}
        record: ParityRecord = {"check": "parity", "passed": not self.violations, **fields, "batches": batches}  # type: ignore[typeddict-item]
        return record


def compare_outputs(
    reference: Predictor, candidate: Predictor, samples: Samples, tolerance: Tolerance = FLOAT32, max_batch: int = 32
) -> Parity:
    """Run both on the same images and measure the differences.

    The reference runs once, in batches of `max_batch`. The candidate runs in batches of 1, 2, 5 and `max_batch`, then
    with one image in every row, then with the rows in another order.

    Raises:
        ParityError: the two have different image sizes or numbers of classes.
    """
    if reference.size != candidate.size or len(reference.classes) != len(candidate.classes):
        described = (f"{a.size}x{a.size} pixels, {len(a.classes)} classes" for a in (reference, candidate))
        expected, found = described
        what = f"{candidate.name} cannot be compared with {reference.name}"
        raise ParityError(what, expected=expected, found=found, hint="compare artifacts of one network")
    right = predict_all(reference, samples.images, max_batch)
    largest = predict_all(candidate, samples.images, max_batch)
    batches = {}
    for size in sorted({*SMALL_BATCHES, max_batch}):
        rows = largest if size == max_batch else predict_all(candidate, samples.images[:FEW], size)
        batches[size] = difference(rows, right[: len(rows)])
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
    """Reject a conversion whose outputs differ from those of its source.

    Raises:
        ParityError: names the step, the differences, and a file with the images and both sides' logits.
    """
    if not parity.violations:
        return
    kept = FAILURES / f"{step}.npz"  # one file for each step: failures do not add up
    images = samples.images[: max(parity.batches)]
    right, found = reference.predict(images), candidate.predict(images)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, images=images, reference=right, candidate=found)
        hint = f"nothing was written; see the images and both sides' logits in {kept}"
    except OSError:
        hint = "nothing was written"
    expected = f"logits within {parity.limit:.3g} of {parity.reference}"
    raise ParityError(f"step {step}", expected=expected, found=", ".join(parity.violations), hint=hint)


def find_flips(right: Logits, found: Logits) -> list[OutputFlip]:
    """Return the rows whose largest logit changed, sorted by margin; both float32 [N, classes]."""
    named, other = right.argmax(axis=1), found.argmax(axis=1)
    rows = np.flatnonzero(named != other)
    flips = [
        OutputFlip(i, int(named[i]), int(other[i]), float(right[i, named[i]] - right[i, other[i]]))
        for i in rows.tolist()
    ]
    return sorted(flips, key=lambda flip: -flip.margin)


def predict_all(model: Predictor, images: Images, batch: int) -> Logits:
    """Return the logits of all images, float32 [N, classes], computed in batches of at most `batch`."""
    return np.concatenate([model.predict(images[i : i + batch]) for i in range(0, len(images), batch)])


def difference(a: Logits, b: Logits) -> float:
    """Return the largest absolute difference; NaN if either side has one."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _same_image(model: Predictor, image: Images, rows: int) -> float:
    rows_of_one = model.predict(np.repeat(image[None], rows, axis=0))
    return difference(rows_of_one, rows_of_one[:1])


def _permuted(model: Predictor, images: Images) -> float:
    order = np.random.default_rng(0).permutation(len(images))
    return difference(model.predict(images[order]), model.predict(images)[order])
