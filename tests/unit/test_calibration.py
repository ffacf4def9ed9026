from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from shrinkserve.calibration import BINS, Calibration, CalibrationRecord

RNG = np.random.default_rng(5)
TRUE = RNG.normal(scale=2.0, size=(20_000, 10))
"""Logits of a calibrated model: the labels are drawn from its probabilities."""
LABELS = (TRUE + RNG.gumbel(size=TRUE.shape)).argmax(axis=1)


def measure(logits: np.ndarray, labels: np.ndarray = LABELS) -> CalibrationRecord:
    calibration = Calibration()
    for start in range(0, len(logits), 999):
        calibration.add(logits[start : start + 999].astype(np.float32), labels[start : start + 999])
    record = calibration.to_record()
    assert record is not None
    return record


def test_bins_equal_scikit_learn() -> None:
    record = measure(2.0 * TRUE)
    confidence = softmax(2.0 * TRUE, axis=1).max(axis=1)
    right = (TRUE.argmax(axis=1) == LABELS).astype(int)
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS, strategy="uniform")
    assert [one.accuracy for one in record.bins] == pytest.approx(accuracy.tolist(), abs=2e-3)
    assert [one.confidence for one in record.bins] == pytest.approx(mean.tolist(), abs=2e-3)
    assert sum(one.images for one in record.bins) == len(LABELS)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.4, 2.0])
def test_temperature_is_the_factor_of_the_logits(factor: float) -> None:
    assert measure(factor * TRUE).temperature == pytest.approx(factor, rel=0.03)


def test_temperature_of_a_model_that_is_always_right_is_the_lower_end() -> None:
    assert measure(TRUE, TRUE.argmax(axis=1)).temperature == pytest.approx(0.25)


def test_ece_is_low_for_a_calibrated_model_and_high_for_an_overconfident_one() -> None:
    assert measure(TRUE).ece < 0.02
    assert measure(4.0 * TRUE).ece > 0.1


def test_ece_equals_calculation_by_hand() -> None:
    """Two predictions with 90 % confidence, one of them correct, and one correct prediction with 60 %."""
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    record = measure(logits, np.array([0, 1, 0]))
    assert record.ece == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1.0)) / 3, abs=1e-6)


def test_to_record_is_none_without_images() -> None:
    assert Calibration().to_record() is None
