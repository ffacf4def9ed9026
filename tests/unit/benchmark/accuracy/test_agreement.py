from __future__ import annotations

import numpy as np
import pytest

from shrinkserve.benchmark.accuracy.agreement import LISTED_FLIPS, Agreement, margin

RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 10, 400)
LOGITS = RNG.normal(size=(400, 10)).astype(np.float32)
INDICES = np.arange(400)


def name(index: int) -> str:
    return f"image {index}"


def compare(before: np.ndarray, after: np.ndarray) -> Agreement:
    comparison = Agreement("before", "after")
    comparison.add(before, after, LABELS[: len(before)], INDICES[: len(before)], name)
    return comparison


def test_logits_that_are_not_finite_are_never_equal() -> None:
    broken = LOGITS.copy()
    broken[3] = np.nan
    broken[4, 2] = np.inf
    assert compare(broken, broken).flips == 2
    assert compare(LOGITS, broken).worst is None


def test_flips_have_both_predictions_and_margins() -> None:
    after = LOGITS.copy()
    after[5] = 0
    after[5, 1], after[5, 8] = 2.0, 1.25
    assert LOGITS[5].argmax() != 1
    comparison = compare(LOGITS, after)
    (flip,) = comparison.listed
    assert (flip.index, flip.name, flip.label, flip.before, flip.after) == (
        5, "image 5", LABELS[5], LOGITS[5].argmax(), 1,
    )  # fmt: skip
    assert flip.margin_after == pytest.approx(0.75)
    top = np.sort(LOGITS[5])
    assert flip.margin_before == pytest.approx(top[-1] - top[-2])
    assert comparison.worst == pytest.approx(np.abs(after - LOGITS).max())


def test_lost_and_gained_are_counted() -> None:
    right = np.eye(10, dtype=np.float32)[LABELS[:20]]
    wrong = np.roll(right, 1, axis=1)
    half = np.where(np.arange(20)[:, None] < 12, right, wrong)
    lost = compare(right, half)
    assert (lost.flips, lost.lost, lost.gained) == (8, 8, 0)
    assert lost.to_record().mcnemar_p == pytest.approx(2 / 2**8)
    other = compare(half, wrong)
    assert (other.flips, other.lost, other.gained) == (12, 12, 0)
    assert compare(wrong, half).gained == 12


def test_listed_flips_are_bounded() -> None:
    total = Agreement("before", "after")
    for _ in range(4):
        total.merge(compare(LOGITS, -LOGITS))
    assert len(total.listed) == LISTED_FLIPS
    assert total.flips > LISTED_FLIPS
    assert total.images == 1600


def test_margin_of_a_single_class_is_none() -> None:
    assert margin(np.array([0.3], np.float32)) is None
