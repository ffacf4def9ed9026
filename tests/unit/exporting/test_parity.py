from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.errors import ParityError
from shrinkserve.exporting.parity import FLOAT32, NEAR_TIE, Tolerance, assert_parity, compare_outputs
from shrinkserve.exporting.samples import Samples, synthetic


class Linear:
    """A classifier of mean colours with one flaw, if any."""

    size = 8
    classes = ("a", "b", "c", "d")

    def __init__(self, name: str, flaw: Callable[[np.ndarray], np.ndarray] = lambda logits: logits) -> None:
        self.name, self.flaw = name, flaw
        self.weights = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        colours = images.mean((1, 2)).astype(np.float32)
        # Not a matrix product: its order of summation, and so the last bit, depends on the number of rows.
        return self.flaw((colours[:, :, None] * self.weights / 25).sum(1))


SAMPLES = synthetic(8, 12)
RIGHT = Linear("right")


def test_compare_passes_for_equal_outputs() -> None:
    outcome = compare_outputs(RIGHT, Linear("copy"), SAMPLES, max_batch=7)
    assert outcome.violations == []
    assert outcome.worst == 0
    assert list(outcome.batches) == [1, 2, 5, 7]
    assert outcome.to_dict()["passed"] is True


@pytest.mark.parametrize(
    ("flaw", "error"),
    [
        (lambda y: y + 1, "batch 1 differ"),
        (lambda y: y + (len(y) == 5), "batch 5 differ"),
        (lambda y: y + np.arange(len(y))[:, None] * 0.1, "rows of one image differ"),
        (lambda y: np.where(len(y) > 6, y[::-1], y), "batch 7 differ"),
        (lambda y: y * np.nan, "batch 1 differ by nan"),
    ],
)
def test_compare_names_each_difference(flaw: Callable[[np.ndarray], np.ndarray], error: str) -> None:
    outcome = compare_outputs(RIGHT, Linear("flawed", flaw), SAMPLES, max_batch=7)
    assert any(found.startswith(error) for found in outcome.violations), outcome.violations


def test_compare_finds_row_that_depends_on_position() -> None:
    """All other batches are full, so that only the permutation can show it."""
    flawed = Linear("by place", lambda y: y + (np.arange(len(y)) == 3)[:, None] * (y[:, :1] > 0))
    assert any(
        error.startswith("permuted rows") for error in compare_outputs(RIGHT, flawed, SAMPLES, max_batch=12).violations
    )


def test_flips_are_sorted_by_margin() -> None:
    outcome = compare_outputs(
        RIGHT, Linear("swapped", lambda y: y[:, ::-1]), SAMPLES, Tolerance(absolute=1e9), max_batch=4
    )
    assert outcome.flips == 12
    assert sorted(flip.image for flip in outcome.flipped) == list(range(12))
    logits = RIGHT.predict(SAMPLES.images)
    for flip in outcome.flipped:
        assert (flip.right, flip.found) == (logits[flip.image].argmax(), 3 - logits[flip.image].argmax())
        assert flip.margin == logits[flip.image, flip.right] - logits[flip.image, flip.found]
    margins = [flip.margin for flip in outcome.flipped]
    assert margins == sorted(margins, reverse=True)


@pytest.mark.parametrize(("rows", "passes"), [(3, True), (4, False)])
def test_flips_within_allowed_fraction_pass(rows: int, passes: bool) -> None:
    def swap(y: np.ndarray) -> np.ndarray:
        return np.concatenate([y[:rows, ::-1], y[rows:]]) if len(y) == len(SAMPLES) else y

    outcome = compare_outputs(
        RIGHT, Linear("swapped", swap), SAMPLES, Tolerance(absolute=1e9, flips=0.25), max_batch=12
    )
    assert outcome.flips == rows
    assert outcome.violations == ([] if passes else ["4 of 12 top-1 predictions changed, at most 25.0% may"])


class Fixed:
    """Returns given logits; the first pixel of an image is its row."""

    size = 8

    def __init__(self, name: str, logits: np.ndarray) -> None:
        self.name, self.logits, self.classes = name, logits, [str(index) for index in range(logits.shape[1])]

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.logits[images[:, 0, 0, 0]]


def numbered(count: int) -> Samples:
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return Samples(images, None, "numbered")


@given(st.integers(0, 2**32 - 1), st.sampled_from([FLOAT32, Tolerance(0.01), Tolerance(0.08)]))
def test_errors_within_near_tie_pass(seed: int, tolerance: Tolerance) -> None:
    """Use few values, so that many classes are tied or nearly tied and many predictions change."""
    rng = np.random.default_rng(seed)
    logits = (rng.integers(-3, 4, (40, 5)) * rng.choice([1e-3, 1, 30])).astype(np.float32)
    error = 0.99 * NEAR_TIE / 2 * tolerance.absolute * max(1.0, float(np.abs(logits).max()))
    moved = logits + rng.uniform(-error, error, logits.shape).astype(np.float32)
    assert compare_outputs(Fixed("a", logits), Fixed("b", moved), numbered(40), tolerance).violations == []


@given(st.integers(0, 2**32 - 1), st.integers(0, 39), st.sampled_from([FLOAT32, Tolerance(0.01), Tolerance(0.08)]))
def test_flip_beyond_near_tie_fails(seed: int, image: int, tolerance: Tolerance) -> None:
    """One flip among forty images; every logit is within the tolerance."""
    logits = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
    limit = tolerance.absolute * max(1.0, float(np.abs(logits).max()))
    first, second = np.argsort(-logits[image])[:2]
    logits[image, second] = logits[image, first] - 1.2 * NEAR_TIE * limit
    moved = logits.copy()
    moved[image, second] = logits[image, first] + 0.2 * limit
    outcome = compare_outputs(Fixed("a", logits), Fixed("b", moved), numbered(40), tolerance)
    assert outcome.worst <= outcome.limit
    assert [error.split(",")[0] for error in outcome.violations] == [
        f"image {image} changed from output {first} to {second}"
    ]


def test_tolerance_is_in_units_of_logits() -> None:
    small = compare_outputs(RIGHT, Linear("b", lambda y: y + 2e-4), SAMPLES, FLOAT32)
    assert small.scale > 2.1
    assert small.violations == []


def test_failure_names_step_and_keeps_both_sides() -> None:
    flawed = Linear("flawed", lambda y: y + 1)
    outcome = compare_outputs(RIGHT, flawed, SAMPLES)
    with pytest.raises(ParityError, match="step fold") as failure:
        assert_parity(outcome, "fold", RIGHT, flawed, SAMPLES)
    kept = np.load(str(failure.value.hint).rsplit(" ", 1)[1])
    np.testing.assert_allclose(kept["candidate"] - kept["reference"], 1, atol=1e-5)
    assert kept["images"].shape == (12, 8, 8, 3)


def test_compare_rejects_other_number_of_classes() -> None:
    other = Linear("other")
    other.classes = ("a", "b")
    with pytest.raises(ParityError, match="expected 8x8 pixels, 4 classes, found 8x8 pixels, 2 classes"):
        compare_outputs(RIGHT, other, SAMPLES)
