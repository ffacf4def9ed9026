from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from shrinkserve.benchmark.accuracy.score import (
    LISTED_FLIPS,
    Agreement,
    Score,
    confusion_cells,
    margin,
    unpack_flags,
)
from shrinkserve.confusion import class_figures, merge_cells

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


def test_scores_equal_scikit_learn() -> None:
    score = Score("stage")
    for start in range(0, 400, 64):
        score.add(LOGITS[start : start + 64], LABELS[start : start + 64])
    record = score.to_record()
    for k in (1, 5):
        expected = top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(10))
        assert getattr(record, f"top{k}").value == pytest.approx(expected)
    assert record.top1.low < record.top1.value < record.top1.high


def test_confusion_cells_equal_scikit_learn() -> None:
    parts = [confusion_cells(LOGITS[start : start + 64], LABELS[start : start + 64]) for start in range(0, 400, 64)]
    expected = confusion_matrix(LABELS, LOGITS.argmax(1), labels=range(10))
    found = np.zeros((10, 10), int)
    for cell in merge_cells(*parts):
        found[cell.label, cell.prediction] += cell.images
    assert (found == expected).all()


def test_image_without_finite_logits_counts_for_its_class_only() -> None:
    logits = np.array([[1, 0], [np.nan, 0]], np.float32)
    figures = class_figures(["a", "b"], confusion_cells(logits, np.array([0, 0])))
    assert [(one.precision, one.recall, one.support) for one in figures] == [(1, 0.5, 2), (0, 0, 0)]


def test_correct_predictions_are_kept_image_by_image() -> None:
    score = Score("stage")
    for start in range(0, 400, 30):
        score.add(LOGITS[start : start + 30], LABELS[start : start + 30])
    kept = unpack_flags(score.to_record().right, 400)
    assert (kept == (LOGITS.argmax(axis=1) == LABELS)).all()
    assert len(score.to_record().right) < 80  # six images a character


def test_logits_that_are_not_finite_are_never_correct_and_never_equal() -> None:
    broken = LOGITS.copy()
    broken[3] = np.nan
    broken[4, 2] = np.inf
    score = Score("stage")
    score.add(broken[3:5], LABELS[3:5])
    assert (score.top1, score.top5) == (0, 0)
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
