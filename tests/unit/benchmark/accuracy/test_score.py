from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from shrinkserve.benchmark.accuracy.score import Score, confusion_cells, unpack_flags
from shrinkserve.confusion import class_figures, merge_cells

RNG = np.random.default_rng(7)
LABELS = RNG.integers(0, 10, 400)
LOGITS = RNG.normal(size=(400, 10)).astype(np.float32)


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


def test_logits_that_are_not_finite_are_never_correct() -> None:
    broken = LOGITS.copy()
    broken[3] = np.nan
    broken[4, 2] = np.inf
    score = Score("stage")
    score.add(broken[3:5], LABELS[3:5])
    assert (score.top1, score.top5) == (0, 0)
